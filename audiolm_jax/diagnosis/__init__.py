"""Checks of an installation, which `doctor` prints."""
