"""The training loop for every `Trainable`, with checkpoints, logs, optimizers and sharding."""
