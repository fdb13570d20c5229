"""A CNN, layer by layer, for any way to convolve."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.cnn.layer import ConvLayer


def run(
    layers: tuple[ConvLayer, ...],
    activations: tuple[str, ...],
    weights: dict[str, Any],
    x: Float[Array, "P ..."],
    convolve: Callable[[int, jax.Array, jax.Array], jax.Array],
    dropout: Callable[[jax.Array, int], jax.Array] | None = None,
) -> Float[Array, "P R"]:
    """The logits of one network.

    Args:
      layers: with `activations`, of the spec.
      x: what the first convolution reads.
      convolve: from a layer's number, what it reads and its kernel to (P, h, w, out), without bias.
      dropout: in training, what becomes of a layer's output; it is given the layer's number too.
    """
    outputs: list[jax.Array] = []
    for index, (layer, affine) in enumerate(zip(layers, weights["layers"], strict=True)):
        x = convolve(index, x, affine["kernel"]) + affine["bias"].reshape(1, 1, 1, -1)
        if layer.residual >= 0:
            source = outputs[layer.residual]
            shared = min(source.shape[-1], layer.out_channels)
            added = x[..., :shared] + source[..., :shared]
            x = jnp.concatenate([added, x[..., shared:]], axis=-1)
        x = layer.by_activation(activations, weights, ACTIVATIONS.__getitem__, x)
        if dropout is not None:
            x = dropout(x, index)
        outputs.append(x)
    return head(weights, x)


def head(weights: dict[str, Any], x: Float[Array, "P h w C"]) -> Float[Array, "P R"]:
    """The logits from the last layer's output."""
    pooled = jnp.mean(x, axis=(1, 2))
    return pooled @ weights["head"]["kernel"] + weights["head"]["bias"].reshape(1, -1)
