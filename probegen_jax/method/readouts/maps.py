"""A readout of hidden responses of CNNs: of the maps between their layers.

The idea and the sizes are those of HiddenProbe (yonatansverdlov/HiddenProbe, 2026). It begins as
`outputs` does, bit for bit: what maps say is added by a last layer that starts at zero.

Maps are read by attention over cells, then channels, probes and layers. Written plainly, each cell
becomes 32 values and each channel 64, for every probe and network. But all before the softmaxes is
linear in the maps' summaries, so they can be averaged instead, and the layers applied to averages.
The result is the same, and a network's summaries need never leave the loop that makes them.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from probegen_jax.method.dropout import Noise
from probegen_jax.method.layers import dense, uniform_fan_in
from probegen_jax.method.readouts.base import Sizes
from probegen_jax.method.readouts.outputs import Head
from probegen_jax.method.tasks import Scale
from probegen_jax.networks import map_summaries, maps
from probegen_jax.networks.apart import apart
from probegen_jax.networks.contract import NetworkSpec

_DESCRIBED, _CELL, _TOKEN = 32, 32, 64  # values of a layer's description, a cell, a token
_CELL_RANK, _RANK, _BOTTLENECK = 8, 16, 32
_PRODUCTS, _MIXED, _HIDDEN = 32, 128, 64
_FREQUENCIES = 4
# Of a channel, what is averaged: a cell's statistics, which cell it was, those of the whole map.
_PARTS = (map_summaries.OF_CELL, map_summaries.CELLS, map_summaries.OF_MAP)
_ENDS = tuple(int(end) for end in np.cumsum(_PARTS)[:2])


def _places() -> Float[np.ndarray, "16 16"]:
    """Sines and cosines of where each cell lies, row by row."""
    along = np.linspace(-1, 1, map_summaries.GRID, dtype=np.float32)
    row, column = (each.ravel() for each in np.meshgrid(along, along, indexing="ij"))
    phases = [np.pi * 2**n * at for n in range(_FREQUENCIES) for at in (column, row)]
    return np.stack([f(phase) for phase in phases for f in (np.sin, np.cos)], -1)


class Pool(nnx.Module):
    """Attention with one learned query: a weighted mean of values, through a narrow middle."""

    def __init__(self, width: int, rank: int, *, rngs: nnx.Rngs):
        self.query = nnx.Param(0.02 * jax.random.normal(rngs.params(), (rank,)))
        self.key, self.value = (_narrow(width, rank, rngs=rngs) for _ in range(2))
        self.out = dense(rank, width, rngs=rngs)

    @property
    def scorer(self) -> Float[Array, " width"]:
        """What a value's product with is its score."""
        return self.key.kernel[...] @ self.query[...] / math.sqrt(self.query.size)

    def read(self, mean: Float[Array, "*B width"]) -> Float[Array, "*B width"]:
        """What becomes of the weighted mean."""
        return self.out(self.value(mean))

    def __call__(
        self, x: Float[Array, "*B n width"], there: Bool[Array, "*B n"] | None = None
    ) -> Float[Array, "*B width"]:
        """Of all along the last axis but one, or of those that are `there`."""
        scores = x @ self.scorer
        if there is not None:
            scores = jnp.where(there, scores, -jnp.inf)
        return self.read(jnp.sum(jax.nn.softmax(scores)[..., None] * x, axis=-2))


class Between(nnx.Module):
    """Attention of all to all, through a narrow middle, added to what was there."""

    def __init__(self, width: int, rank: int, *, rngs: nnx.Rngs):
        self.query, self.key, self.value = (_narrow(width, rank, rngs=rngs) for _ in range(3))
        self.out = dense(rank, width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B n width"], there: Bool[Array, "B n"]
    ) -> Float[Array, "B n width"]:
        query, key = self.query(x), self.key(x)
        scores = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1])
        scores = jnp.where(there[:, None], scores, -jnp.inf)
        return x + self.out(jax.nn.softmax(scores) @ self.value(x))


class HiddenMaps(Head):
    """Reads the outputs as `Head` does, and adds what the maps say.

    Of each layer and probe, cells are pooled to a value of each channel, and channels to a token;
    then tokens of all probes, and those of all layers. How cells and channels are weighed depends
    on what the layer is. The outputs' last hidden layer, the maps' token z, and products of both go
    through an MLP to 64 values; a linear layer of these is added to the answer.
    """

    answers_once: ClassVar[bool] = False

    def __init__(self, responses: int, sizes: Sizes, *, rngs: nnx.Rngs):
        inputs = sizes.num_probes * responses
        sides = inputs, sizes.width, sizes.depth, sizes.outputs
        super().__init__(*sides, dropout=sizes.dropout, rngs=rngs)
        self.responses = responses
        self.describe = nnx.List(
            [
                dense(maps.DESCRIPTION, _DESCRIBED, rngs=rngs),
                dense(_DESCRIBED, _DESCRIBED, rngs=rngs),
            ]
        )
        self.cell = dense(map_summaries.OF_CELL, _CELL, rngs=rngs)
        self.place = dense(4 * _FREQUENCIES, _CELL, rngs=rngs)
        self.modulate = dense(_DESCRIBED, 2 * _CELL, rngs=rngs)
        self.cells = Pool(_CELL, _CELL_RANK, rngs=rngs)
        self.token = nnx.List(
            [
                _narrow(_CELL + map_summaries.OF_MAP, _BOTTLENECK, rngs=rngs),
                dense(_BOTTLENECK, _TOKEN, rngs=rngs),
            ]
        )
        self.channels = Pool(_TOKEN, _RANK, rngs=rngs)
        probes = 0.02 * jax.random.normal(rngs.params(), (sizes.num_probes, _TOKEN))
        self.probe = nnx.Param(probes)
        self.probes = Pool(_TOKEN, _RANK, rngs=rngs)
        self.between = Between(_TOKEN, _RANK, rngs=rngs)
        self.all_layers = Pool(_TOKEN, _RANK, rngs=rngs)
        width = sizes.width if sizes.depth > 1 else inputs
        self.of_outputs = _narrow(width, _PRODUCTS, rngs=rngs)
        self.of_maps = _narrow(_TOKEN, _PRODUCTS, rngs=rngs)
        self.mix = nnx.List(
            [
                dense(width + _TOKEN + _PRODUCTS, _MIXED, rngs=rngs),
                dense(_MIXED, _HIDDEN, rngs=rngs),
            ]
        )
        self.correction = nnx.Param(jnp.zeros((_HIDDEN, sizes.outputs)))

    @classmethod
    def make(cls, spec: NetworkSpec, sizes: Sizes, *, rngs: nnx.Rngs) -> "HiddenMaps":
        return cls(spec.response_dim, sizes, rngs=rngs)

    @classmethod
    def predicting_values(cls, params: Mapping[str, Any], scale: Scale) -> dict[str, Any]:
        correction = np.asarray(params["correction"], np.float64) * scale.std
        changed = super().predicting_values(params, scale)
        return {**changed, "correction": correction.astype(np.float32)}

    def answers(
        self, spec: NetworkSpec, weights: Any, probes: Float[Array, "P H W C"]
    ) -> Float[Array, "B P A"]:
        """The outputs, and of each layer its token and whether the network has it."""
        described_BxLxD, there_BxL = spec.describe_layers(weights)
        widen, narrow = self.describe
        described_BxLxD = narrow(jax.nn.gelu(widen(described_BxLxD), approximate=False))
        scale, shift = jnp.split(self.modulate(described_BxLxD), 2, axis=-1)
        responses, pooled_BxPxLxK = spec.respond_with_maps(
            weights, probes, pooled, self.queries(1 + scale)
        )
        token = self.tokens(pooled_BxPxLxK, 1 + scale[:, None], shift[:, None])
        there = jnp.broadcast_to(there_BxL[:, None, :, None], (*token.shape[:3], 1))
        token = jnp.concatenate([token, there.astype(token.dtype)], axis=-1)
        return jnp.concatenate([responses, token.reshape(*token.shape[:2], -1)], axis=-1)

    def queries(self, scale: Float[Array, "B L cell"]) -> Float[Array, "B L Q"]:
        """What `pooled` weighs with: parts of a cell and its place, then the same of a channel."""
        to_cell, to_place = self.cell.kernel[...].T, (_places() @ self.place.kernel[...]).T
        of_cells = self.cells.scorer[None, None] * scale
        down, up = self.token
        of_token = down.kernel[...] @ (up.kernel[...] @ self.channels.scorer)
        of_mean, of_map = jnp.split(of_token, [_CELL])
        of_mean = self.cells.value.kernel[...] @ (self.cells.out.kernel[...] @ of_mean)
        of_mean = of_mean[None, None] * scale
        of_map = jnp.broadcast_to(of_map[None, None], (*scale.shape[:2], map_summaries.OF_MAP))
        parts = [each for by in (of_cells, of_mean) for each in (by @ to_cell, by @ to_place)]
        return jnp.concatenate([*parts, of_map], axis=-1)

    def tokens(
        self, means: Float[Array, "B P L K"], scale: jax.Array, shift: jax.Array
    ) -> Float[Array, "B P L token"]:
        """Of each layer, from the means over cells and channels that `pooled` gives."""
        cells, places, whole = jnp.split(means, _ENDS, axis=-1)
        cell = (self.cell(cells) + self.place(places @ _places())) * scale + shift
        down, up = self.token
        token = up(down(jnp.concatenate([self.cells.read(cell), whole], axis=-1)))
        return self.channels.read(token)

    def __call__(
        self, answers: Float[Array, "B P A"], noise: Noise | None = None
    ) -> Float[Array, "B O"]:
        responses, rest = jnp.split(answers, [self.responses], axis=-1)
        rest = rest.reshape(*rest.shape[:2], -1, _TOKEN + 1).swapaxes(1, 2)
        tokens_BxLxPxT, there_BxL = rest[..., :_TOKEN], rest[:, :, 0, _TOKEN] > 0
        layers = self.probes(tokens_BxLxPxT + self.probe[...][None, None])
        z = self.all_layers(self.between(layers, there_BxL), there_BxL)
        features = self.features(responses, noise)
        products = self.of_outputs(features) * self.of_maps(z)
        widen, narrow = self.mix
        hidden = jax.nn.relu(widen(jnp.concatenate([features, z, products], axis=-1)))
        hidden = jax.nn.relu(narrow(hidden))
        return self.layers[-1](features) + hidden @ self.correction[...]


@jax.custom_vjp
def pooled(
    cells: Float[Array, "P 6 16 C"],
    whole: Float[Array, "P 14 C"],
    there: Bool[Array, " C"] | None,
    query: Float[Array, " Q"],
) -> Float[Array, "P K"]:
    """Weighted means over the cells of each channel, then over channels; see `maps.Reduce`."""
    return _pool(cells, whole, there, query)[0]


@apart
def _pool(cells: Any, whole: Any, there: Any, query: Any) -> tuple[jax.Array, ...]:
    """See `pooled`; also the weights of cells, the values of channels and their weights."""
    of_part, of_place, of_channel = jnp.split(query, _ENDS)
    each = [cells[:, part] for part in range(map_summaries.OF_CELL)]
    scores = sum(by * part for by, part in zip(of_part, each, strict=True))
    scores = scores + of_place[None, :, None]
    # Of slices, as in `networks.maps`.
    weights = jnp.exp(scores - _over_cells(jnp.maximum, scores)[:, None])
    weights = weights / _over_cells(jnp.add, weights)[:, None]
    means = jnp.stack([_over_cells(jnp.add, weights * part) for part in each], axis=1)
    values = jnp.concatenate([means, weights, whole], axis=1)
    scores = jnp.sum(of_channel[None, :, None] * values, axis=1)
    if there is not None:
        scores = jnp.where(there[None], scores, -jnp.inf)
        values = jnp.where(there[None, None], values, 0)
    of_channels = jax.nn.softmax(scores)
    return jnp.sum(of_channels[:, None] * values, axis=2), weights, values, of_channels


def _over_cells(op: Any, x: Float[Array, "P 16 C"]) -> Float[Array, "P C"]:
    return functools.reduce(op, [x[:, cell] for cell in range(map_summaries.CELLS)])


def _pooled_forward(cells, whole, there, query):
    found, *kept = _pool(cells, whole, there, query)
    return found, (cells, query, *kept)


@apart
def _pooled_back(kept, g_PxK):
    cells, query, weights, values, of_channels = kept
    of_part, _, of_channel = jnp.split(query, _ENDS)
    g = jnp.sum(g_PxK[..., None] * values, axis=1)
    g = of_channels * (g - jnp.sum(of_channels * g, axis=1, keepdims=True))
    g_of_channel = jnp.sum(g[:, None] * values, axis=(0, 2))
    g_values = of_channels[:, None] * g_PxK[..., None] + g[:, None] * of_channel[None, :, None]
    g_means, g_weights, g_whole = jnp.split(g_values, _ENDS, axis=1)
    parts = range(map_summaries.OF_CELL)
    g_weights = g_weights + sum(g_means[:, part, None] * cells[:, part] for part in parts)
    g_weights = weights * g_weights
    g_scores = g_weights - weights * jnp.sum(g_weights, axis=1, keepdims=True)
    g_cells = [g_means[:, n, None] * weights + of_part[n] * g_scores for n in parts]
    g_of_part = jnp.sum(cells * g_scores[:, None], axis=(0, 2, 3))
    g_query = jnp.concatenate([g_of_part, jnp.sum(g_scores, axis=(0, 2)), g_of_channel])
    return jnp.stack(g_cells, axis=1), g_whole, None, g_query


pooled.defvjp(_pooled_forward, _pooled_back)


def _narrow(in_features: int, out_features: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer without a bias, as PyTorch initialises it."""
    init = uniform_fan_in(in_features)
    return nnx.Linear(in_features, out_features, use_bias=False, kernel_init=init, rngs=rngs)
