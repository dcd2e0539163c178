"""Metrics, and the suites that put a codec, tokenizers, stages and continuations to them."""
