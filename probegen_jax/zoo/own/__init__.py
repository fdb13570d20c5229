"""Networks of the user's own, from files or arrays."""

from probegen_jax.zoo.own.files_and_targets import from_arrays, from_folder

__all__ = ["from_arrays", "from_folder"]
