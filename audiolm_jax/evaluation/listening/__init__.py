"""Listening tests: a page with questions, and the statistics of the answers."""
