"""What ResNets are made of."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.cnn.layer import ConvLayer, Size
from probegen_jax.networks.maps import Reduce, description, read
from probegen_jax.networks.shapes import affine

# Is shown maps before and after their activation.
See = Callable[[jax.Array, jax.Array], None]


@dataclasses.dataclass(frozen=True)
class Block:
    """A residual block: convolutions, and one on the way around them where shapes change."""

    layers: tuple[ConvLayer, ...]
    shortcut: ConvLayer | None

    # As a `ConvLayer` has them, of all convolutions in a row.

    @property
    def in_channels(self) -> int:
        return self.layers[0].in_channels

    @property
    def out_channels(self) -> int:
        return self.layers[-1].out_channels

    @property
    def kernel(self) -> int:
        """The side of the largest."""
        return max(layer.kernel for layer in self.layers)

    @property
    def stride(self) -> int:
        return math.prod(layer.stride for layer in self.layers)

    def out_sizes(self, size: Size) -> Size:
        return functools.reduce(lambda size, layer: layer.out_sizes(size), self.layers, size)


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


def shown(
    act: Callable[[jax.Array], jax.Array], see: See | None
) -> Callable[[jax.Array], jax.Array]:
    """The activation, which shows what it is given and what it makes of that."""
    if see is None:
        return act

    def act_and_show(before: jax.Array) -> jax.Array:
        after = act(before)
        see(before, after)
        return after

    return act_and_show


def and_maps(
    run: Callable[[See | None], Float[Array, "P R"]], reduce: Reduce | None, queries_LxQ: Any
) -> tuple[Float[Array, "P R"], Float[Array, "P L K"] | None]:
    """What `run` answers, and what `reduce`, if there is one, makes of the maps that it shows."""
    if reduce is None:
        return run(None), None
    found: list[jax.Array] = []

    def see(before: jax.Array, after: jax.Array) -> None:
        found.append(read(reduce, before, after, queries_LxQ[len(found)]))

    responses = run(see)
    return responses, jnp.stack(found, axis=1)


def describe(
    parts: Sequence[ConvLayer | Block], size: Size, stem_pool: bool, activation: str
) -> Float[Array, "L 24"]:
    """The stem and the blocks, see `maps.description`, on images of `size`."""
    described, place = [], list(ACTIVATIONS).index(activation)
    for index, part in enumerate(parts):
        size, channels = part.out_sizes(size), (part.in_channels, part.out_channels)
        given = (channels, size, part.kernel, part.stride, place)
        described.append(description(index, len(parts), *given))
        if index == 0 and stem_pool:
            size = (size[0] + 1) // 2, (size[1] + 1) // 2  # as `max_pool` makes it
    return jnp.stack(described)
