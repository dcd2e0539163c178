"""Exports the outputs of a bundle to files that other evaluation tools read."""
