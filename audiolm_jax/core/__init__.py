"""Code that all other packages use: errors, configurations, the command line, compilation."""
