"""Training on devices: batches, the loop, checkpoints."""
