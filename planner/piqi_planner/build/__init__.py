"""From a model file and images to a verified table and a bundle."""
