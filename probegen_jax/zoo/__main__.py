"""The former name of `python -m probegen_jax.describe_zoo`."""

from probegen_jax import errors
from probegen_jax.describe_zoo import main

if __name__ == "__main__":
    errors.run(main)
