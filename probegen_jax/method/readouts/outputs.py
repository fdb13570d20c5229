"""The paper's readout: an MLP on the networks' responses."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from probegen_jax.method.dropout import Dropout, Noise
from probegen_jax.method.layers import dense
from probegen_jax.method.readouts.base import Readout, Sizes
from probegen_jax.networks.contract import NetworkSpec


class Head(Readout):
    """An MLP over the flattened responses, P·R values: Linear, then ReLU and Linear.

    It has `depth` Linears in all, at least 1 (6 in the paper); hidden ones are `width` wide (256).
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        depth: int,
        out_features: int,
        *,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        widths = [in_features] + [width] * (depth - 1) + [out_features]
        self.layers = nnx.List(dense(m, n, rngs=rngs) for m, n in itertools.pairwise(widths))
        # After the layers, which so start as they do without.
        self.dropout = Dropout(dropout, rngs=rngs) if dropout and depth > 1 else None

    @classmethod
    def make(cls, spec: NetworkSpec, sizes: Sizes, *, rngs: nnx.Rngs) -> "Head":
        return cls.of(sizes.num_probes * spec.response_dim, sizes, rngs=rngs)

    @classmethod
    def of(cls, in_features: int, sizes: Sizes, *, rngs: nnx.Rngs) -> "Head":
        """A fresh one of these sizes, for so many values of a network."""
        sides = in_features, sizes.width, sizes.depth, sizes.outputs
        return cls(*sides, dropout=sizes.dropout, rngs=rngs)

    @staticmethod
    def last_layer(params: Mapping[str, Any]) -> tuple[str | int, ...]:
        return "layers", max(params["layers"], key=int)

    def features(
        self, answers: Float[Array, "B P R"], noise: Noise | None = None
    ) -> Float[Array, "B width"]:
        """What the last layer reads."""
        x = answers.reshape(answers.shape[0], -1)  # probe-major
        for n, layer in enumerate(self.layers[:-1]):
            x = jax.nn.relu(layer(x))
            if noise is not None:
                x = self.dropout(x, noise, n)
        return x

    def __call__(
        self, answers: Float[Array, "B P R"], noise: Noise | None = None
    ) -> Float[Array, "B O"]:
        return self.layers[-1](self.features(answers, noise))
