"""Statistics of maps, the images between a CNN's layers, and their gradient."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probegen_jax.networks.apart import apart

GRID = 4  # cells along a side
CELLS, OF_CELL, OF_MAP = GRID**2, 6, 14

# Slices of so many pixels of a cell are joined one by one, which a CPU runs fastest; of more than
# that, compilation would take too long.
_MOST_SLICES = 64
_ALONG = {jnp.add: jnp.sum, jnp.maximum: jnp.max, jnp.minimum: jnp.min}
_NEAR_ZERO = 1e-3
_LEAST_VARIANCE = 1e-10  # less is rounding, and a square root has no slope at 0


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
    first = summary(before)
    cells, wholes = zip(first, first if after is before else summary(after), strict=True)
    return jnp.concatenate(cells, axis=1), jnp.concatenate(wholes, axis=1)


@jax.custom_vjp
def summary(x: Float[Array, "P h w C"]) -> tuple[Float[Array, "P 3 16 C"], Float[Array, "P 7 C"]]:
    """The part of `summaries` that is of one map."""
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


summary.defvjp(_summary_forward, _summary_back)


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
        a, b = pixels.shape[2], pixels.shape[4]
        if a * b > _MOST_SLICES:
            values = value(pixels, *(each[:, :, None, :, None] for each in given))
            joined = _ALONG[op](values, axis=(2, 4))
        else:
            places = itertools.product(range(a), range(b))
            values = [value(pixels[:, :, a, :, b], *given) for a, b in places]
            joined = functools.reduce(op, values)
        found = jax.lax.dynamic_update_slice(found, joined, (0, *at, 0))
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
