"""A CNN, layer by layer, for any way to convolve."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.cnn.layer import ConvLayer

# In the patches of one layer, of all networks that run side by side: 2 GiB.
MOST_PATCH_VALUES = 2**29


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


def convolved(
    layer: ConvLayer, x: Float[Array, "P H W C"], kernel: jax.Array, networks: int | None
) -> Float[Array, "P h w O"]:
    """A convolution without bias, as a matmul over patches.

    Args:
      networks: how many run side by side: if the patches of all do not fit the memory, it is a
        convolution after all. None: they need not be counted.
    """
    values = math.prod(layer.out_sizes(x.shape[1:3])) * layer.kernel**2 * x.shape[0] * x.shape[3]
    if networks is not None and networks * values > MOST_PATCH_VALUES:
        return layer.convolve(x, kernel)
    return matmul(patches(x, layer), kernel)


def run_on_patches(
    layers: tuple[ConvLayer, ...],
    activations: tuple[str, ...],
    weights: dict[str, Any],
    first: Float[Array, "P h w V"],
    dropout: Callable[[jax.Array, int], jax.Array] | None = None,
    networks: int | None = None,
    see: Callable[[int, jax.Array, jax.Array], None] | None = None,
) -> Float[Array, "P R"]:
    """`run` for one network at a time, with matmuls over patches in place of convolutions.

    On a CPU a convolution over the weights of many networks becomes a grouped convolution, which
    XLA runs far below the speed of its matmuls, and one inside a loop runs on a single thread. One
    network after the other, as matmuls, keeps the activations in the cache. All networks can share
    `first`, the patches of the images for the first layer. For `networks` see `convolved`.
    """

    def convolution(layer):
        return lambda x, kernel: convolved(layer, x, kernel, networks)

    convolutions = [matmul, *map(convolution, layers[1:])]
    return run(layers, activations, weights, first, convolutions, dropout, see)


def matmul(x: Float[Array, "P h w V"], kernel: jax.Array) -> Float[Array, "P h w O"]:
    """A convolution of the image that these are the `patches` of."""
    return x @ kernel.reshape(-1, kernel.shape[-1])
