"""Deep linear probe generators for weight-space learning, in JAX and Flax."""

__version__ = "0.1.0"
