"""The official PyTorch code's files and parameters."""
