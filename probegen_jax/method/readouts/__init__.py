"""What is read of the networks that are probed, and how a prediction comes of it."""
