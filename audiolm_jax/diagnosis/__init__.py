"""Checks of an installation; `doctor` prints their results."""
