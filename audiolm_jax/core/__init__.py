"""Code that every other package uses: errors, configurations, the command line, compilation."""
