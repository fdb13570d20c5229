"""CNNs of the user's own: any sequence of convolutions, pooling, linear layers, activations."""
