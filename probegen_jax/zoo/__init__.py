"""What a zoo is, and where it is read from."""
