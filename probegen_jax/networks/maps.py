"""What is kept of the maps of convolutions, the images between layers: summaries of fixed size.

Maps of a batch would not fit in memory, and their sizes differ by layer and network. A map is
summarised by its mean, standard deviation and maximum in 4×4 cells, and by 7 statistics of the
whole, both before the activation (and after a residual link) and behind it. The idea and the choice
of statistics are HiddenProbe's (yonatansverdlov/HiddenProbe, 2026).
"""

import abc
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from probegen_jax.networks.activations import ACTIVATIONS

GRID = 4  # cells along a side
CELLS, OF_CELL, OF_MAP = GRID**2, 6, 14

# From the summaries of one layer's C channels, (P, 6, 16, C) of cells and (P, 14, C) of whole maps,
# and a query (Q,), to K values of each probe, (P, K). Where C has room for more channels than the
# layer has, a mask (C,) says which are there; else it is None.
Reduce = Callable[[jax.Array, jax.Array, jax.Array | None, jax.Array], jax.Array]

DESCRIPTION = 16 + len(ACTIVATIONS)

_NEAR_ZERO = 1e-3
_LEAST_VARIANCE = 1e-10  # less is rounding, and a square root has no slope at 0


class WithMaps(abc.ABC):
    """What a `NetworkSpec` of convolutions can be asked, too."""

    has_maps: ClassVar[bool] = True

    @abc.abstractmethod
    def describe_layers(self, weights: Any) -> tuple[Float[Array, "B L 24"], Bool[Array, "B L"]]:
        """What the layers of maps of every network are, see `description`.

        The flags say which layers a network has.
        """

    @abc.abstractmethod
    def respond_with_maps(
        self,
        weights: Any,
        probes: Float[Array, "P ..."],
        reduce: Reduce,
        queries: Float[Array, "B L Q"],
    ) -> tuple[Float[Array, "B P R"], Float[Array, "B P L K"]]:
        """Every network on every probe, and its maps; differentiable in probes and queries.

        Args:
          reduce: see `Reduce`; the same function in every call, as compilations know it.
          queries: for each network and layer, what `reduce` is given.

        Returns:
          The responses, and what `reduce` makes of the maps of each layer.
        """


def summaries(
    before: Float[Array, "P h w C"], after: Float[Array, "P h w C"]
) -> tuple[Float[Array, "P 6 16 C"], Float[Array, "P 14 C"]]:
    """The summaries of a layer's maps before and after its activation, in this order.

    Along a side, cells are as equal as can be without an overlap, the longer ones first. If it has
    less than 4 pixels, a pixel makes several cells.

    Returns:
      Of each cell, row by row: mean, standard deviation, maximum. Of the whole map: mean, standard
      deviation, minimum, maximum, log(1 + norm), the share of values above 0, and that of values
      below 0.001 in size.
    """
    cells, wholes = zip(*map(_summary, _apart((before, after))), strict=True)
    return jnp.concatenate(cells, axis=1), jnp.concatenate(wholes, axis=1)


def description(
    index: Any,
    depth: Any,
    channels: tuple[Any, Any],
    size: tuple[Any, Any],
    kernel: Any,
    stride: Any,
    activation: Any,
    dilation: Any = 1,
    groups: Any = 1,
) -> Float[Array, "*B 24"]:
    """A layer of maps in numbers, for readouts; each argument is a number or an array of them.

    Args:
      index: of the layer among those of its network, which are `depth`.
      channels: in and out; `size`: height and width of the output, in pixels.
      kernel: side of the kernel, in pixels; `stride` and `dilation` likewise.
      activation: place in `ACTIVATIONS`.
    """
    index, activation = (jnp.asarray(each, jnp.int32) for each in (index, activation))
    last = jnp.asarray(depth, jnp.int32) - 1
    whole = jnp.maximum(last, 1).astype(jnp.float32)
    first, final = index == 0, index == last
    numbers = [
        index.astype(jnp.float32) / whole,
        (last - index).astype(jnp.float32) / whole,
        *(jnp.log2(jnp.asarray(each, jnp.float32)) for each in (*channels, *size)),
        *[kernel] * 2,
        *[stride] * 2,
        *[dilation] * 2,
        groups,
        first,
        ~first & ~final,
        final,
        *(activation == place for place in range(len(ACTIVATIONS))),
    ]
    shape = jnp.broadcast_shapes(*(jnp.shape(each) for each in numbers))
    return jnp.stack(
        [jnp.broadcast_to(jnp.asarray(each, jnp.float32), shape) for each in numbers], axis=-1
    )


def _summary(x: Float[Array, "P h w C"]) -> tuple[jax.Array, jax.Array]:
    size, channels = x.shape[1:3], x.shape[3]
    pixels, counts = size[0] * size[1], _counts(size)
    means, squares, most, least, above, near = _by_cells(x)
    mean = jnp.sum(counts * means, axis=(1, 2)) / pixels
    spread = squares + counts * jnp.square(means - mean[:, None, None])
    variance = jnp.sum(spread, axis=(1, 2)) / pixels
    whole = [
        mean,
        _root(variance),
        jnp.min(least, axis=(1, 2)),
        jnp.max(most, axis=(1, 2)),
        jnp.log1p(_root(variance + jnp.square(mean)) * math.sqrt(pixels)),
        jnp.sum(above, axis=(1, 2)) / pixels,
        jnp.sum(near, axis=(1, 2)) / pixels,
    ]
    cells = [means, _root(squares / counts), most]
    for axis, side in enumerate(size, 1):
        if side < GRID:  # a pixel is several cells
            of_cell = [n * side // GRID for n in range(GRID)]
            cells = [
                jnp.concatenate([jax.lax.index_in_dim(each, n, axis) for n in of_cell], axis)
                for each in cells
            ]
    cells = [each.reshape(-1, CELLS, channels) for each in cells]
    return jnp.stack(cells, axis=1), jnp.stack(whole, axis=1)


def _root(square: jax.Array) -> jax.Array:
    """The square root; 0, with slope 0, of what is 0 but for rounding."""
    there = square > _LEAST_VARIANCE
    return jnp.where(there, jnp.sqrt(jnp.where(there, square, 1)), 0)


# What XLA makes of reductions and their gradients takes a CPU ten times as long as these sums of
# slices, whose way back is one pass over the pixels.


def _ends(side: int) -> list[int]:
    """Where cells begin and end along a side; if it is too short for them, its pixels."""
    cells = min(side, GRID)
    return [n * (side // cells) + min(n, side % cells) for n in range(cells + 1)]


def _counts(size: tuple[int, int]) -> np.ndarray:
    """Pixels of each cell."""
    down, right = (np.diff(_ends(side)) for side in size)
    return (down[:, None] * right).astype(np.float32)[None, :, :, None]


@jax.custom_vjp
def _by_cells(x: Float[Array, "P h w C"]) -> tuple[Float[Array, "P t u C"], ...]:
    """Of each cell: mean, sum of squared distances from it, maximum, minimum, two counts.

    They are of values above 0, and of values near 0.
    """
    size = x.shape[1:3]
    means = _apart(_down(jnp.add, x) / _counts(size))
    found = (
        means,
        _down(jnp.add, jnp.square(x - _up(means, size))),
        _down(jnp.maximum, x),
        _down(jnp.minimum, x),
        _down(jnp.add, (x > 0).astype(x.dtype)),
        _down(jnp.add, (jnp.abs(x) < _NEAR_ZERO).astype(x.dtype)),
    )
    return _apart(found)


def _by_cells_forward(x: jax.Array) -> tuple[Any, Any]:
    found = _by_cells(x)
    return found, (x, found[0], *found[2:4])


def _by_cells_back(kept: Any, g: Any) -> tuple[jax.Array]:
    x, means, *extremes = kept
    size = x.shape[1:3]
    g_means, g_squares, *g_extremes = g[:4]
    constant, factor = _apart((g_means / _counts(size) - 2 * g_squares * means, 2 * g_squares))
    g_x = _up(constant, size) + x * _up(factor, size)
    for extreme, g_extreme in zip(extremes, g_extremes, strict=True):
        # Pixels that share an extreme share its gradient.
        sharing = _down(jnp.add, (x == _up(extreme, size)).astype(x.dtype))
        share = _apart(g_extreme / sharing)
        g_x += jnp.where(x == _up(extreme, size), _up(share, size), 0)
    return (_apart(g_x),)


_by_cells.defvjp(_by_cells_forward, _by_cells_back)


def _apart(arrays: Any) -> Any:
    """The same, but computed by itself: else XLA computes it again for each pixel that reads it."""
    return jax.lax.optimization_barrier(arrays)


def _down(op: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Pixels of each cell, joined by an operation."""
    for axis in (1, 2):
        ends = _ends(x.shape[axis])
        cells, size = len(ends) - 1, ends[1]
        if x.shape[axis] == cells * size:  # all of one size
            shape = (*x.shape[:axis], cells, size, *x.shape[axis + 1 :])
            slices = [
                jax.lax.index_in_dim(x.reshape(shape), n, axis + 1, keepdims=False)
                for n in range(size)
            ]
            x = functools.reduce(op, slices)
        else:
            x = jnp.concatenate(
                [
                    functools.reduce(op, [jax.lax.index_in_dim(x, n, axis) for n in range(*cell)])
                    for cell in itertools.pairwise(ends)
                ],
                axis,
            )
    return x


def _up(cells: jax.Array, size: tuple[int, int]) -> jax.Array:
    """To each pixel what its cell has."""
    for axis, side in enumerate(size, 1):
        lengths = np.diff(_ends(side))
        if side == len(lengths) * lengths[0]:
            shape = (*cells.shape[: axis + 1], int(lengths[0]), *cells.shape[axis + 1 :])
            cells = jnp.broadcast_to(jnp.expand_dims(cells, axis + 1), shape)
            cells = cells.reshape(*shape[:axis], side, *shape[axis + 2 :])
        else:
            cells = jnp.take(cells, np.repeat(np.arange(len(lengths)), lengths), axis=axis)
    return cells
