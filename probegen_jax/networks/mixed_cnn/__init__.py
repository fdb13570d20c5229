"""CNNs of any mixture of architectures, in one compilation."""
