"""Tells synthetic sound from recordings."""
