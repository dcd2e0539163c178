"""What a bundle makes of recordings, in files that other evaluation tools read."""
