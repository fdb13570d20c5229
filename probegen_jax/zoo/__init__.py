"""What a zoo is (`zoo.zoo`) and where zoos come from."""

from probegen_jax.zoo.zoo import Zoo

__all__ = ["Zoo"]
