"""One trainer for every trainable thing."""
