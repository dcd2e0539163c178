"""Checks of an installation, as `doctor` prints them."""
