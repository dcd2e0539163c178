"""Access to files: audio, tokens, local and remote storage, provenance and plots."""
