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
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.apart import apart

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
    cells, wholes = zip(*map(_summary, (before, after)), strict=True)
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


@jax.custom_vjp
def _summary(x: Float[Array, "P h w C"]) -> tuple[Float[Array, "P 3 16 C"], Float[Array, "P 7 C"]]:
    cells, whole = _statistics(x)
    return _every_cell(cells, x.shape[1:3]), jnp.stack(whole, axis=1)


# Automatic differentiation of these sums of slices would take a CPU ten times as long as one pass
# over the pixels.


def _summary_forward(x: jax.Array) -> tuple[Any, Any]:
    cells, whole = _statistics(x)
    found = _every_cell(cells, x.shape[1:3]), jnp.stack(whole, axis=1)
    return found, (x, cells, whole[:5])


def _summary_back(kept: Any, g: Any) -> tuple[jax.Array]:
    return (apart(functools.partial(_to_pixels, _of_pixel))(kept[0], *_parts_of_slope(kept, g)),)


_summary.defvjp(_summary_forward, _summary_back)


def _of_pixel(
    x: jax.Array,
    constant: jax.Array,
    factor: jax.Array,
    most: jax.Array,
    g_most: jax.Array,
    least: jax.Array,
    g_least: jax.Array,
) -> jax.Array:
    """A pixel's gradient, from what `_parts_of_slope` says of its cell."""
    of_extremes = jnp.where(x == most, g_most, 0) + jnp.where(x == least, g_least, 0)
    return constant + factor * x + of_extremes


@apart
def _parts_of_slope(kept: Any, g: Any) -> tuple[jax.Array, ...]:
    """What `_of_pixel` is given of each cell: but for extremes, slopes are constant + factor·x."""
    x, (means, deviations, most), (mean, deviation, least, greatest, log) = kept
    size = x.shape[1:3]
    pixels, counts = math.prod(size), _counts(size)
    g_means, g_deviations, g_most = _from_every_cell(g[0], size)
    g_mean, g_deviation, g_least, g_greatest, g_log = (g[1][:, n] for n in range(5))
    norm = jnp.expm1(log)
    g_square = g_log / (1 + norm) * pixels * _slope_of_root(norm)  # of the mean square
    g_variance = g_deviation * _slope_of_root(deviation) + g_square
    g_mean = (g_mean + 2 * mean * (g_square - g_variance)) / pixels
    # Pixels that share an extreme share its gradient.
    holding = _equal(most, _of_map(greatest))
    g_greatest = g_greatest / _over_map(jnp.add, holding)
    least = jnp.broadcast_to(_of_map(least), means.shape)
    g_least = g_least / _over_map(jnp.add, _over_cells(jnp.add, x, _equal, least))
    g_most = (g_most + holding * _of_map(g_greatest)) / _over_cells(jnp.add, x, _equal, most)
    g_squares = g_deviations * _slope_of_root(deviations)
    factor = 2 * (g_squares / counts + _of_map(g_variance / pixels))
    constant = (g_means - 2 * g_squares * means) / counts + _of_map(g_mean)
    g_least = jnp.broadcast_to(_of_map(g_least), means.shape)
    return constant, factor, most, g_most, least, g_least


@apart
def _statistics(x: Float[Array, "P h w C"]) -> tuple[list[jax.Array], list[jax.Array]]:
    """Three of each cell, (P, t, u, C), and seven of the whole map, (P, C)."""
    size = x.shape[1:3]
    pixels, counts = math.prod(size), _counts(size)
    means = _over_cells(jnp.add, x, lambda x: x) / counts
    squares = _over_cells(jnp.add, x, lambda x, mean: jnp.square(x - mean), means)
    most, least = (_over_cells(op, x, lambda x: x) for op in (jnp.maximum, jnp.minimum))
    above = _over_cells(jnp.add, x, lambda x: (x > 0).astype(x.dtype))
    near = _over_cells(jnp.add, x, lambda x: (jnp.abs(x) < _NEAR_ZERO).astype(x.dtype))
    mean = _over_map(jnp.add, counts * means) / pixels
    spread = squares + counts * jnp.square(means - _of_map(mean))
    variance = _over_map(jnp.add, spread) / pixels
    whole = [
        mean,
        _root(variance),
        _over_map(jnp.minimum, least),
        _over_map(jnp.maximum, most),
        jnp.log1p(_root(variance + jnp.square(mean)) * math.sqrt(pixels)),
        _over_map(jnp.add, above) / pixels,
        _over_map(jnp.add, near) / pixels,
    ]
    return [means, _root(squares / counts), most], whole


def _root(square: jax.Array) -> jax.Array:
    """The square root; 0, with slope 0, of what is 0 but for rounding."""
    there = square > _LEAST_VARIANCE
    return jnp.where(there, jnp.sqrt(jnp.where(there, square, 1)), 0)


def _slope_of_root(root: jax.Array) -> jax.Array:
    return jnp.where(root > 0, 0.5 / jnp.where(root > 0, root, 1), 0)


def _equal(x: jax.Array, y: jax.Array) -> jax.Array:
    return (x == y).astype(x.dtype)


def _of_map(values: Float[Array, "P C"]) -> Float[Array, "P 1 1 C"]:
    return values[:, None, None]


def _over_map(op: Callable[..., jax.Array], cells: Float[Array, "P t u C"]) -> jax.Array:
    """All cells, joined by an operation: (P, C)."""
    places = itertools.product(*map(range, cells.shape[1:3]))
    return functools.reduce(op, [cells[:, t, u] for t, u in places])


def _every_cell(cells: list[jax.Array], size: tuple[int, int]) -> Float[Array, "P 3 16 C"]:
    """The statistics of all 4×4 cells, where a pixel may be several."""
    for axis, side in enumerate(size, 1):
        if side < GRID:
            cells = [
                jnp.concatenate([_at(each, n * side // GRID, axis) for n in range(GRID)], axis)
                for each in cells
            ]
    return jnp.stack([each.reshape(-1, CELLS, each.shape[3]) for each in cells], axis=1)


def _from_every_cell(g: Float[Array, "P 3 16 C"], size: tuple[int, int]) -> list[jax.Array]:
    """The gradients of what `_every_cell` was given."""
    each = [g[:, n].reshape(-1, GRID, GRID, g.shape[3]) for n in range(g.shape[1])]
    for axis, side in enumerate(size, 1):
        if side < GRID:
            of_pixel = [[n for n in range(GRID) if n * side // GRID == m] for m in range(side)]
            each = [
                jnp.concatenate([sum(_at(g, n, axis) for n in cells) for cells in of_pixel], axis)
                for g in each
            ]
    return each


def _at(x: jax.Array, place: int, axis: int) -> jax.Array:
    return jax.lax.index_in_dim(x, place, axis)


def _runs(side: int) -> list[tuple[int, int, int, int]]:
    """Neighbouring cells of one length: the first pixel and cell, how many cells, their length.

    A side that is too short for 4 cells has as many as pixels.
    """
    cells = min(side, GRID)
    length, longer = divmod(side, cells)
    runs = [
        (0, 0, longer, length + 1),
        (longer * (length + 1), longer, cells - longer, length),
    ]
    return [run for run in runs if run[2] > 0]


def _counts(size: tuple[int, int]) -> Float[np.ndarray, "1 t u 1"]:
    """Pixels of each cell."""
    down, right = (np.repeat(*np.array(_runs(side)).T[[3, 2]]) for side in size)
    return (down[:, None] * right).astype(np.float32)[None, :, :, None]


def _parts(x: jax.Array, *cells: jax.Array) -> Iterator[tuple[Any, Any, jax.Array, list[Any]]]:
    """Parts of maps whose cells are of one size.

    Yields:
      The first pixel and the first cell; the pixels, (P, t, a, u, b, C) for t·u cells of a·b; and
      what lies at these in arrays of all `cells`.
    """
    for (y, t, down, a), (x_, u, right, b) in itertools.product(*map(_runs, x.shape[1:3])):
        pixels = x[:, y : y + down * a, x_ : x_ + right * b]
        pixels = pixels.reshape(-1, down, a, right, b, x.shape[3])
        yield (y, x_), (t, u), pixels, [each[:, t : t + down, u : u + right] for each in cells]


def _over_cells(
    op: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    value: Callable[..., jax.Array],
    *cells: jax.Array,
) -> Float[Array, "P t u C"]:
    """Of each cell, the values of its pixels, joined by an operation; `value` gets `cells`, too."""
    sides = (min(side, GRID) for side in x.shape[1:3])
    found = jax.lax.empty((x.shape[0], *sides, x.shape[3]), x.dtype)
    for _, at, pixels, given in _parts(x, *cells):
        places = itertools.product(range(pixels.shape[2]), range(pixels.shape[4]))
        values = [value(pixels[:, :, a, :, b], *given) for a, b in places]
        found = jax.lax.dynamic_update_slice(found, functools.reduce(op, values), (0, *at, 0))
    return found


def _to_pixels(value: Callable[..., jax.Array], x: jax.Array, *cells: jax.Array) -> jax.Array:
    """`value` of each pixel and what its cell has in `cells`."""
    found = jax.lax.empty(x.shape, x.dtype)
    for at, _, pixels, given in _parts(x, *cells):
        values = value(pixels, *(each[:, :, None, :, None] for each in given))
        down, a, right, b = pixels.shape[1:5]
        values = values.reshape(-1, down * a, right * b, x.shape[3])
        found = jax.lax.dynamic_update_slice(found, values, (0, *at, 0))
    return found
