"""Detects synthetic audio."""
