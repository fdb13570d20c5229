"""Labelled images to make zoos from."""
