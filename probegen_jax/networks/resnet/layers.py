"""What ResNets are made of."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probegen_jax.networks.cnn.layer import ConvLayer
from probegen_jax.networks.shapes import affine


@dataclasses.dataclass(frozen=True)
class Block:
    """A residual block: convolutions, and one on the way around them where shapes change."""

    layers: tuple[ConvLayer, ...]
    shortcut: ConvLayer | None


def shapes(layer: ConvLayer) -> dict[str, jax.ShapeDtypeStruct]:
    """A convolution's arrays, as `ResNetSpec.abstract` has them."""
    return affine(layer.kernel, layer.kernel, layer.in_channels, layer.out_channels)


def convolve(layer: ConvLayer, x: jax.Array, conv: Any) -> jax.Array:
    """What comes before a layer's activation."""
    return layer.convolve(x, conv["kernel"]) + conv["bias"].reshape(1, 1, 1, -1)


def max_pool(x: Float[Array, "P H W C"]) -> Float[Array, "P h w C"]:
    """The largest of 3×3 pixels, of every second one."""
    pads = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)


def padded(shortcut: ConvLayer, x: Float[Array, "P H W C"]) -> Float[Array, "P h w O"]:
    """Every so many pixels, with half of the missing channels before and half of them after."""
    x, missing = x[:, :: shortcut.stride, :: shortcut.stride], shortcut.out_channels - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
