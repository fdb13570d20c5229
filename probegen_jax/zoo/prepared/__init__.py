"""Zoos as TFDS data sets: written once, read ever after."""
