"""Published models of others behind this project's interfaces; their weights, without PyTorch."""
