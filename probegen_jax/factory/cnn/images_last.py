"""CNNs to train on a CPU: the images of a batch stand side by side in the last axis.

So every step works on runs of images, and a convolution is one matmul, (out, values under the
kernel) by (values under the kernel, pixels × images), whose long axis lies last. That is the form
that XLA's matmuls on a CPU run fastest. Gradients are written by hand, for automatic ones are
scattered back through the patches. Barriers keep transpositions out of the matmuls.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.apart import apart
from probegen_jax.networks.cnn.layer import ConvLayer
from probegen_jax.networks.cnn.taps import back, spread


def run(
    layers: tuple[ConvLayer, ...],
    weights: dict[str, Any],
    images: Float[Array, "C H W I"],
    dropout: Callable[[jax.Array, int], jax.Array] | None = None,
) -> Float[Array, "I R"]:
    """The logits of one network; differentiable in its weights, not in the images.

    Args:
      dropout: in training, what becomes of a layer's output; it is given the layer's number too.
    """
    x, outputs = images, []
    for index, (layer, affine) in enumerate(zip(layers, weights["layers"], strict=True)):
        x = convolve(layer, index > 0, jax.lax.optimization_barrier(x), affine)
        if layer.residual >= 0:
            source = outputs[layer.residual]
            shared = min(source.shape[0], layer.out_channels)
            x = jnp.concatenate([x[:shared] + source[:shared], x[shared:]])
        x = ACTIVATIONS[layer.activation](x)
        if dropout is not None:
            x = dropout(x, index)
        outputs.append(x)
    pooled_IxC = jnp.mean(x, axis=(1, 2)).T
    return pooled_IxC @ weights["head"]["kernel"] + weights["head"]["bias"].reshape(1, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def convolve(
    layer: ConvLayer, to_input: bool, x: Float[Array, "C H W I"], affine: dict[str, Array]
) -> Float[Array, "O h w I"]:
    """A convolution with bias; without `to_input`, `x` has no gradient (zeros)."""
    return _forth(layer, to_input, x, affine)[0]


def _forth(layer, to_input, x, affine):
    patches_VxQ, kernel = _patches(layer, x), affine["kernel"]
    rows_VxO = [kernel.reshape(-1, layer.out_channels), affine["bias"].reshape(1, -1)]
    y = jax.lax.optimization_barrier(jnp.concatenate(rows_VxO).T) @ patches_VxQ
    y = y.reshape(-1, *layer.out_sizes(x.shape[1:3]), x.shape[3])
    # The last one is without elements: it tells of the input's shape.
    return y, (patches_VxQ, kernel, jnp.zeros((0, *x.shape), x.dtype))


def _back(layer, to_input, kept, g):
    patches_VxQ, kernel, nothing = kept
    g = jax.lax.optimization_barrier(g)
    g_VxO = (g.reshape(g.shape[0], -1) @ patches_VxQ.T).T
    g_affine = {"kernel": g_VxO[:-1].reshape(kernel.shape), "bias": g_VxO[-1]}
    shape = nothing.shape[1:]
    if not to_input:
        return jnp.zeros(shape), g_affine
    return apart(functools.partial(_to_input, layer, size=shape[1:3]))(kernel, g), g_affine


convolve.defvjp(_forth, _back)


def _patches(layer: ConvLayer, x: Float[Array, "C H W I"]) -> Float[Array, "V Q"]:
    """What lies under the kernel at each output pixel, in the kernel's order; then ones."""
    pad, stride = (layer.padding, layer.padding), layer.stride
    height, width = layer.out_sizes(x.shape[1:3])
    x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    patches = _windows(x, layer.kernel, (height, width), stride)
    ones = jnp.ones((1, *patches.shape[1:]), x.dtype)
    return jnp.concatenate([patches, ones]).reshape(layer.kernel**2 * x.shape[0] + 1, -1)


def _windows(
    x: Float[Array, "C H W I"], side: int, size: tuple[int, int], stride: int = 1
) -> Float[Array, "V h w I"]:
    """The window of `size` that begins at each of side² places, by row, column and channel.

    First along one axis, then along the other: many copies in one step take XLA four times as long
    to compile, and up to six times as long to run. Few copies, or strided ones, are faster in one.
    """
    rows, columns = (stride * (length - 1) + 1 for length in size)
    places = range(side)
    if side == 2 or stride > 1:
        windows = [
            x[:, u : u + rows : stride, v : v + columns : stride] for u in places for v in places
        ]
        return jnp.concatenate(windows)
    x = jnp.concatenate([x[:, :, v : v + columns] for v in places])
    x = jax.lax.optimization_barrier(x)
    return jnp.concatenate([x[:, u : u + rows] for u in places])


def _to_input(
    layer: ConvLayer, kernel: Float[Array, "k k C O"], g: jax.Array, size: tuple[int, int]
) -> Float[Array, "C H W I"]:
    """The gradient of what a convolution reads, from that of what it puts out.

    The stride² pixels under one step of the kernel are computed side by side, as if they were
    channels: by a convolution with stride 1, see `taps.back`.
    """
    stride, images = layer.stride, g.shape[3]
    first, last, taps = back(layer.kernel, stride, layer.padding, stride)
    down, right = (-(-length // stride) for length in size)
    pads = [
        (-first, max(blocks + last - given, 0))
        for blocks, given in zip((down, right), g.shape[1:3], strict=True)
    ]
    g = jnp.pad(g, ((0, 0), *pads, (0, 0)))
    patches_VxQ = _windows(g, len(taps), (down, right)).reshape(len(taps) ** 2 * g.shape[0], -1)
    kernel_VxssC = spread(kernel.swapaxes(2, 3), taps, taps).reshape(len(patches_VxQ), -1)
    y = jax.lax.optimization_barrier(kernel_VxssC.T) @ patches_VxQ
    # Stacked, not transposed, which XLA runs a number at a time.
    y = y.reshape(stride, stride, -1, down, right, images)
    rows = [jnp.stack([*in_row], axis=3) for in_row in y]
    y = jnp.stack(rows, axis=2).reshape(-1, down * stride, right * stride, images)
    return y[:, : size[0], : size[1]]
