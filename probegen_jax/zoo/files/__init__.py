"""Formats of the files that networks lie in: torch, safetensors, the Small CNN Zoo's, archives."""
