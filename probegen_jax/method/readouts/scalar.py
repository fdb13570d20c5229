"""A small function of one number, averaged over many: how hidden responses are read.

The function is an MLP 1 → 16 → 16 → 2. Applied to every hidden response it would cost some ten
times the networks themselves. But a function of one number is a curve: it is computed at the points
of a grid, a few thousand times instead of half a million, and interpolated between them.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from probegen_jax.method.layers import uniform_fan_in

WIDTH, RANK, FEATURES = 16, 8, 2
# The grid: 2,048 intervals between -REACH and REACH. Outside of it the outermost pieces go on, as
# do those of any MLP with ReLUs.
INTERVALS, REACH = 2048, 32.0


class LowRank(nnx.Module):
    """A linear layer whose kernel is a product of two factors, `RANK` wide.

    It starts as the singular value decomposition of a Xavier matrix.
    """

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        kernel = nnx.initializers.xavier_uniform()(rngs.params(), (in_features, out_features))
        left, values, right = jnp.linalg.svd(kernel)
        scale = jnp.ones(RANK).at[: len(values)].set(jnp.sqrt(values)[:RANK])
        # One factor has fewer singular vectors than RANK: zeros, so that the product is the kernel.
        left, right = _widened(left) * scale[None], _widened(right.T).T * scale[:, None]
        self.left, self.right = nnx.Param(left), nnx.Param(right)
        bias = uniform_fan_in(in_features)(rngs.params(), (out_features,))
        self.bias = nnx.Param(bias)

    def __call__(self, x: Float[Array, "G m"]) -> Float[Array, "G k"]:
        return x @ (self.left[...] @ self.right[...]) + self.bias[...][None]


def _widened(matrix: Float[Array, "m k"]) -> Float[Array, "m r"]:
    """The first `RANK` columns; zeros where there are fewer."""
    return jnp.pad(matrix[:, :RANK], ((0, 0), (0, max(0, RANK - matrix.shape[1]))))


class ScalarEncoder(nnx.Module):
    """The mean of an MLP 1 → 16 → 16 → 2 over the last axis; see the module for how."""

    def __init__(self, *, rngs: nnx.Rngs):
        widths = (1, WIDTH, WIDTH, FEATURES)
        self.layers = nnx.List(LowRank(m, n, rngs=rngs) for m, n in itertools.pairwise(widths))

    def curve(self, numbers: Float[Array, " G"]) -> Float[Array, "G 2"]:
        """The MLP itself, of every number."""
        x = numbers[:, None]
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)

    def __call__(self, x: Float[Array, "B P H"]) -> Float[Array, "B P 2"]:
        return _mean_of_curve(self.curve(jnp.asarray(_GRID)).T, x)


_GRID = np.linspace(-REACH, REACH, INTERVALS + 1, dtype=np.float32)


def _position(x: Float[Array, "B P H"]) -> tuple[Int[Array, "B P H"], Float[Array, "B P H"]]:
    """The interval of each number, and how far into it the number lies (outside: beyond 0 or 1)."""
    at = (x + REACH) * (INTERVALS / (2 * REACH))
    interval = jnp.clip(jnp.floor(at), 0, INTERVALS - 1)
    return interval.astype(jnp.int32), at - interval


@jax.custom_vjp
def _mean_of_curve(
    curve_FxG: Float[Array, "F G"], x: Float[Array, "B P H"]
) -> Float[Array, "B P F"]:
    """The mean over H of a curve that is given on the grid and linear in between."""
    interval, beyond = _position(x)
    steps_FxK = jnp.diff(curve_FxG)
    means = [
        jnp.mean(value_G[interval] + beyond * step_K[interval], axis=-1)
        for value_G, step_K in zip(curve_FxG, steps_FxK, strict=True)
    ]
    return jnp.stack(means, axis=-1)


def _forwards(curve_FxG: Array, x: Array) -> tuple[Array, tuple[Array, Array]]:
    return _mean_of_curve(curve_FxG, x), (curve_FxG, x)


def _back(saved: tuple[Array, Array], gradient: Float[Array, "B P F"]) -> tuple[Array, Array]:
    curve_FxG, x = saved
    interval, beyond = _position(x)
    gradient = gradient / x.shape[-1]
    slopes_FxK = jnp.diff(curve_FxG) * (INTERVALS / (2 * REACH))
    by_feature = [gradient[..., f, None] for f in range(len(curve_FxG))]
    of_x = functools.reduce(
        jnp.add, (g * slope_K[interval] for g, slope_K in zip(by_feature, slopes_FxK, strict=True))
    )
    # To the two ends of each number's interval; in rows, for one pass over the numbers.
    columns = [part for g in by_feature for part in (g * (1 - beyond), g * beyond)]
    rows = jnp.stack(columns, axis=-1).reshape(-1, len(columns))
    sums_KxE = jnp.zeros((INTERVALS, len(columns))).at[interval.reshape(-1)].add(rows)
    sums_KxFx2 = sums_KxE.reshape(INTERVALS, -1, 2)
    of_curve = jnp.pad(sums_KxFx2[..., 0], ((0, 1), (0, 0)))
    of_curve += jnp.pad(sums_KxFx2[..., 1], ((1, 0), (0, 0)))
    return of_curve.T, of_x


_mean_of_curve.defvjp(_forwards, _back)
