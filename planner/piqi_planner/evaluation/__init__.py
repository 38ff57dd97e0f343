"""Measured accuracy of partially quantised networks: data, metrics, samples."""
