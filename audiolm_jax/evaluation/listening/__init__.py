"""Listening tests: a page that asks people, and what their answers show."""
