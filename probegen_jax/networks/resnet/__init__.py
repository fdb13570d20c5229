"""Residual networks (ResNets): what one computes, and how it is found in files."""
