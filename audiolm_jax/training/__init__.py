"""The trainer, which trains every `Trainable`."""
