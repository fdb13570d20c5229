"""Fits SIRENs to images."""
