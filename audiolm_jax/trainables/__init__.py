"""Implementations of `Trainable`: codec, semantic encoders, stages and detector."""
