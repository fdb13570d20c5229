"""Makes zoos from images."""
