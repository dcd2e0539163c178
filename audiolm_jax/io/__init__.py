"""Files: audio, tokens, local and remote storage, provenance, plots."""
