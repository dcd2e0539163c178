"""The models that the trainer trains: codec, semantic encoder, stages, detector."""
