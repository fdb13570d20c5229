"""Kernels for tiles of pixels: which row of a kernel connects which pixels.

A table of taps has a row for each pixel of a window that is read, and a column for each pixel of
the tile that is written. It names a row of the kernel, or the row after the last where there is no
connection.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Taps = Int[np.ndarray, "_ _"]


def forth(side: int, stride: int, tile: int) -> Taps:
    """The taps from the inputs under a tile of outputs.

    Pixel a of the tile reads rows a·stride to a·stride + side − 1 of the window.
    """
    window = np.arange(side + (tile - 1) * stride)
    return _within(window[:, None] - stride * np.arange(tile), side)


def back(side: int, stride: int, padding: int, tile: int) -> tuple[int, int, Taps]:
    """The taps from outputs, or their gradients, to a tile of inputs.

    Output o met input m at row m + padding − o·stride of the kernel. With m = tile·t + a and
    o = (tile/stride)·t + w, that row does not depend on t. The stride divides the tile.

    Returns:
      The first and the last w of the window, and the taps.
    """
    first = -((side - 1 - padding) // stride)
    last = (tile - 1 + padding) // stride
    taps = np.arange(tile) + padding - stride * np.arange(first, last + 1)[:, None]
    return first, last, _within(taps, side)


def spread(
    kernel: Float[Array, "k k I O"], down: Taps, right: Taps
) -> Float[Array, "Wd Wr I Td Tr O"]:
    """The kernel from a window to a tile, with zeros where nothing is connected."""
    kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    return kernel[down][:, :, right].transpose(0, 2, 4, 1, 3, 5)


def _within(taps: np.ndarray, side: int) -> np.ndarray:
    return np.where((taps >= 0) & (taps < side), taps, side)
