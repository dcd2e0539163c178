"""What `eval` runs: a file for each suite, whose `run` finds its data and measures a bundle."""
