"""A CNN, layer by layer, for any way to convolve."""

from collections.abc import Callable, Sequence
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
    convolutions: Sequence[Callable[[jax.Array, Any], jax.Array]],
    dropout: Callable[[jax.Array, int], jax.Array] | None = None,
    see: Callable[[int, jax.Array, jax.Array], None] | None = None,
) -> Float[Array, "P R"]:
    """The logits of one network.

    Args:
      layers: with `activations`, of the spec.
      x: what the first convolution reads.
      convolutions: each from what its layer reads and a kernel to (P, h, w, out), without bias.
      dropout: in training, what becomes of a layer's output; it is given the layer's number too.
      see: is shown each layer's number and its maps before and after the activation.
    """
    outputs: list[jax.Array] = []
    for index, (layer, affine) in enumerate(zip(layers, weights["layers"], strict=True)):
        x = convolutions[index](x, affine["kernel"]) + affine["bias"].reshape(1, 1, 1, -1)
        if layer.residual >= 0:
            source = outputs[layer.residual]
            shared = min(source.shape[-1], layer.out_channels)
            added = x[..., :shared] + source[..., :shared]
            x = jnp.concatenate([added, x[..., shared:]], axis=-1)
        before, x = x, layer.by_activation(activations, weights, ACTIVATIONS.__getitem__, x)
        if see is not None:
            see(index, before, x)
        if dropout is not None:
            x = dropout(x, index)
        outputs.append(x)
    return head(weights, x)


def head(weights: dict[str, Any], x: Float[Array, "P h w C"]) -> Float[Array, "P R"]:
    """The logits from the last layer's output."""
    pooled = jnp.mean(x, axis=(1, 2))
    return pooled @ weights["head"]["kernel"] + weights["head"]["bias"].reshape(1, -1)


def patches(images: Float[Array, "P H W C"], layer: ConvLayer) -> Float[Array, "P h w V"]:
    """The V = kernel²·C values under a layer's kernel at each output pixel.

    They are in the order of a kernel (k, k, in, out) reshaped to (K, out).
    """
    pad, stride = (layer.padding, layer.padding), layer.stride
    x = jnp.pad(images, ((0, 0), pad, pad, (0, 0)))
    height, width = layer.out_sizes(images.shape[1:3])
    # Columns first, then rows: the second step copies longer runs.
    columns = [x[:, :, v : v + stride * (width - 1) + 1 : stride] for v in range(layer.kernel)]
    x = jnp.concatenate(columns, axis=-1)
    rows = [x[:, u : u + stride * (height - 1) + 1 : stride] for u in range(layer.kernel)]
    return jnp.concatenate(rows, axis=-1)


def run_on_patches(
    layers: tuple[ConvLayer, ...],
    activations: tuple[str, ...],
    weights: dict[str, Any],
    first: Float[Array, "P h w V"],
    dropout: Callable[[jax.Array, int], jax.Array] | None = None,
    matmuls: Sequence[bool] = (),
    see: Callable[[int, jax.Array, jax.Array], None] | None = None,
) -> Float[Array, "P R"]:
    """`run` for one network at a time, with matmuls over patches in place of convolutions.

    On a CPU a convolution over the weights of many networks becomes a grouped convolution, which
    XLA runs far below the speed of its matmuls, and one inside a loop runs on a single thread. One
    network after the other, as matmuls, keeps the activations in the cache. All networks can share
    `first`, the patches of the images for the first layer. Where `matmuls` is given, layers after
    the first for which it is False are convolved after all.
    """

    def convolution(layer, matmul):
        if not matmul:
            return layer.convolve
        return lambda x, kernel: _matmul(patches(x, layer), kernel)

    matmuls = matmuls or [True] * len(layers)
    convolutions = [_matmul, *map(convolution, layers[1:], matmuls[1:])]
    return run(layers, activations, weights, first, convolutions, dropout, see)


def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel.reshape(-1, kernel.shape[-1])
