"""Convolutions of one zoo network, shaped so that a CPU runs narrow ones well.

Networks of the zoos have 3 to 64 channels. With so few, a CPU spends its time on laying out patches
and on vectors that are half empty. So a *tile* of neighbouring output pixels is computed from one,
slightly larger patch, as if its pixels were more channels: fewer patches, fuller vectors. The
tile's kernel holds a shifted copy of the kernel for each pixel, zero elsewhere, and these zeros are
the price in arithmetic (`arithmetic` counts it).

The gradient with respect to the images is a convolution of the same form, for any stride.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probegen_jax.networks.cnn.taps import back, forth, spread
from probegen_jax.networks.mixed_cnn.kinds import Dtype

Shape4 = tuple[int, int, int, int]

# From so many channels on, XLA's convolution runs near the machine's peak.
_WIDE = 32


def tile_of(inputs: int, outputs: int) -> tuple[int, int]:
    """Rows and columns of output pixels to compute together.

    Measured for kernels of 3 to 7 and 4 to 32 channels on 32×32 images in float32: these tiles are
    the fastest or nearly so, 2 to 10 times faster than single pixels where they are not (1, 1).
    """
    if inputs >= _WIDE:
        return (1, 1)
    for most, tile in ((4, (2, 4)), (8, (2, 2)), (16, (1, 2))):
        if outputs <= most:
            return tile
    return (1, 1)


def convolve(
    x_PxHxWxI: Float[Array, "P H W I"],
    kernel_kxkxIxO: Float[Array, "k k I O"],
    stride: int,
    padding: int,
    dtype: Dtype = "float32",
) -> Float[Array, "P h w O"]:
    """A convolution (cross-correlation, as PyTorch's) without bias.

    What is multiplied has the `dtype`; sums are float32 in any case.
    """
    axes = _forward(x_PxHxWxI.shape[1:3], kernel_kxkxIxO.shape, stride, padding)
    return _tiled(x_PxHxWxI, kernel_kxkxIxO, axes, dtype)


def convolve_back(
    g_PxhxwxO: Float[Array, "P h w O"],
    kernel_kxkxIxO: Float[Array, "k k I O"],
    stride: int,
    padding: int,
    size: tuple[int, int],
    dtype: Dtype = "float32",
) -> Float[Array, "P H W I"]:
    """The gradient of `convolve` with respect to its images, which have H×W = `size`."""
    axes = _backward(size, g_PxhxwxO.shape[1:3], kernel_kxkxIxO.shape, stride, padding)
    return _tiled(g_PxhxwxO, kernel_kxkxIxO.swapaxes(2, 3), axes, dtype)


def arithmetic(size: Sequence[int], kernel_shape: Shape4, stride: int, padding: int) -> int:
    """Multiplications per probe, forwards and back, those with a tile's zeros included."""
    forward = _forward(size, kernel_shape, stride, padding)
    backward = _backward(size, [axis.size for axis in forward], kernel_shape, stride, padding)
    done = [math.prod(axis.tiles * axis.taps.size for axis in axes) for axes in (forward, backward)]
    return sum(done) * math.prod(kernel_shape[2:])


class _Axis:
    """How one image axis is cut into tiles.

    Attributes:
      size: pixels that come out.
      tiles: tiles that cover them; the last one may reach beyond.
      step: pixels of the input from one tile to the next.
      padding: zeros before and after the input; negative where pixels are left out.
      taps: see `taps`.
    """

    def __init__(self, size: int, given: int, step: int, before: int, taps: np.ndarray):
        self.size = size
        self.tiles = -(-size // taps.shape[1])
        self.step = step
        after = (self.tiles - 1) * step + taps.shape[0] - before - given
        self.padding = (before, after)
        self.taps = taps


def _forward(size: Sequence[int], kernel_shape: Shape4, stride: int, padding: int) -> list[_Axis]:
    side, _, inputs, outputs = kernel_shape
    axes = []
    for given, many in zip(size, tile_of(inputs, outputs), strict=True):
        out = (given + 2 * padding - side) // stride + 1
        many = min(many, out)
        axes.append(_Axis(out, given, many * stride, padding, forth(side, stride, many)))
    return axes


def _backward(
    size: Sequence[int], given: Sequence[int], kernel_shape: Shape4, stride: int, padding: int
) -> list[_Axis]:
    side, _, inputs, outputs = kernel_shape
    axes = []
    for out, length, many in zip(size, given, tile_of(outputs, inputs), strict=True):
        first, _, taps = back(side, stride, padding, many * stride)
        axes.append(_Axis(out, length, many, -first, taps))
    return axes


def _tiled(x: jax.Array, kernel: jax.Array, axes: list[_Axis], dtype: Dtype) -> jax.Array:
    """Images, tile by tile, from a kernel (k, k, in, out) laid out as `axes` say."""
    down, right = axes
    outputs = kernel.shape[3]
    rows, columns = down.taps.shape[1], right.taps.shape[1]
    kernel = spread(kernel, down.taps, right.taps)
    kernel = kernel.reshape(*kernel.shape[:3], rows * columns * outputs)
    y = jax.lax.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        (down.step, right.step),
        (down.padding, right.padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=jnp.float32,
    )
    probes = x.shape[0]
    y = y.reshape(probes, down.tiles, right.tiles, rows, columns * outputs).swapaxes(2, 3)
    y = y.reshape(probes, down.tiles * rows, right.tiles * columns, outputs)
    return y[:, : down.size, : right.size]
