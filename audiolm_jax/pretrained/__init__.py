"""Published models with the interfaces of this project; their weights are read without PyTorch."""
