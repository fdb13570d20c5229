"""Networks of the user's own, from files or arrays."""
