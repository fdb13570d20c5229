"""A CNN with matmuls over patches in place of convolutions, for one network at a time.

On a CPU a convolution over the weights of many networks becomes a grouped convolution, which XLA
runs far below the speed of its matmuls, and one inside a loop runs on a single thread. One network
after the other, as matmuls, keeps the activations in the cache.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probegen_jax.networks.cnn.forward import run
from probegen_jax.networks.cnn.layer import ConvLayer


def patches(images: Float[Array, "P H W C"], layer: ConvLayer) -> Float[Array, "P h w K"]:
    """The K = kernel²·C values under a layer's kernel at each output pixel.

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


def apply(
    layers: tuple[ConvLayer, ...],
    activations: tuple[str, ...],
    weights: dict[str, Any],
    first: Float[Array, "P h w K"],
    dropout: Callable[[jax.Array, int], jax.Array] | None = None,
) -> Float[Array, "P R"]:
    """What `CnnSpec.apply` computes, for images of which the first layer's patches are given.

    Args:
      layers: with `activations`, of the spec.
      first: `patches` of the images for the first layer, which all networks can share.
      dropout: see `forward.run`.
    """

    def convolve(index: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = patches(x, layers[index]) if index else x
        return x @ kernel.reshape(-1, kernel.shape[-1])

    return run(layers, activations, weights, first, convolve, dropout)
