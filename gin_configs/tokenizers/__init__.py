"""Gin's `include` looks for files in packages; every folder of them is one."""
