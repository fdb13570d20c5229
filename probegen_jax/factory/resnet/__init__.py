"""Trains residual networks."""
