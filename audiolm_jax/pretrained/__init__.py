"""Published models behind this project's interfaces, and their weights without PyTorch."""
