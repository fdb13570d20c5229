"""Trains CNNs drawn from a search space."""
