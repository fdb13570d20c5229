"""The head: reads a network's responses, says what the network is."""

import itertools

import jax
from flax import nnx
from jaxtyping import Array, Float

from probegen_jax.method.layers import dense


class Head(nnx.Module):
    """An MLP over the flattened responses: Linear, then ReLU and Linear, `depth` Linears in all."""

    def __init__(
        self, in_features: int, width: int, depth: int, out_features: int, *, rngs: nnx.Rngs
    ):
        """Args:
        in_features: P·R.
        width: of the hidden layers (256 in the paper).
        depth: linear layers, at least 1 (6 in the paper).
        out_features: classes, or 1 for a regression.
        rngs: its `params` stream draws the layers.
        """
        widths = [in_features] + [width] * (depth - 1) + [out_features]
        self.layers = nnx.List(dense(m, n, rngs=rngs) for m, n in itertools.pairwise(widths))

    def __call__(self, responses: Float[Array, "B P R"]) -> Float[Array, "B O"]:
        x = responses.reshape(responses.shape[0], -1)  # probe-major
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)
