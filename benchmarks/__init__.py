"""What is fast and what is large, measured."""
