"""What the trainer trains: codec, semantic encoder, stages, detector."""
