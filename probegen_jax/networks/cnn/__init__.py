"""CNNs of one architecture."""
