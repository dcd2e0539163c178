"""Metrics, and suites that measure codecs, tokenizers, stages and continuations."""
