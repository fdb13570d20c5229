"""One convolution of a CNN, described."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from probegen_jax.networks.activations import ACTIVATIONS, unknown_activation

PER_NETWORK = "per_network"
Size = tuple[int, int]  # height and width, in pixels


@dataclasses.dataclass(frozen=True)
class ConvLayer:
    """One convolution, what is added to it, and the activation after it.

    Attributes:
      kernel: side of the square kernel, in pixels, as `stride` is.
      padding: zeros around the image on each side, in pixels.
      activation: a name in `ACTIVATIONS`, or `PER_NETWORK`: each network of the zoo says which.
      residual: −1, or the layer whose *post-activation* output is added to this layer's
        pre-activation, on the first min(channels) channels.
    """

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    padding: int
    activation: str
    residual: int = -1

    def convolve(
        self, x: Float[Array, "P H W I"], kernel: Float[Array | np.ndarray, "k k I O"]
    ) -> Float[Array, "P h w O"]:
        """The convolution (cross-correlation, as PyTorch's) without bias."""
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            [(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def by_activation(
        self,
        choices: tuple[str, ...],
        weights: Any,
        function: Callable[[str], Callable[..., Any]],
        *args: Any,
    ) -> Any:
        """`function(name)(*args)` with the name of the layer's activation.

        If networks choose it, their weights hold its place in `choices`.
        """
        if self.activation != PER_NETWORK:
            return function(self.activation)(*args)
        return jax.lax.switch(weights["activation"], [function(name) for name in choices], *args)

    def out_sizes(self, size: Size) -> Size:
        """Height and width of the output for an input of `size`."""
        return tuple((side + 2 * self.padding - self.kernel) // self.stride + 1 for side in size)

    def problem(
        self, size: Size, channels: int, earlier: Sequence[Size], choices: bool
    ) -> str | None:
        """What is wrong with this layer in a network, or None.

        Args:
          earlier: what the layers before it put out.
          choices: whether networks may choose activations themselves.
        """
        known = self.activation in ACTIVATIONS or (choices and self.activation == PER_NETWORK)
        for name in ("in_channels", "out_channels", "kernel", "stride"):
            if getattr(self, name) < 1:
                return f"{name} is {getattr(self, name)}; it must be at least 1"
        if self.padding < 0:
            return f"padding is {self.padding}; it cannot be negative"
        if self.in_channels != channels:
            return f"reads {self.in_channels} channels, but is given {channels}"
        if not known:
            return unknown_activation(self.activation)
        if self.kernel % 2 == 0 and self.padding and self.padding == self.kernel // 2:
            return (
                f"an even kernel ({self.kernel}) with padding {self.padding} changes the image's "
                "size; use an odd kernel or another padding"
            )
        if self.residual < -1 or self.residual >= len(earlier):
            return f"residual is {self.residual}; it must be −1 or an earlier layer"
        out = self.out_sizes(size)
        if min(out) < 1:
            return (
                f"a {self.kernel}×{self.kernel} kernel with padding {self.padding} does not fit "
                f"its {size[0]}×{size[1]} input"
            )
        if self.residual >= 0 and earlier[self.residual] != out:
            height, width = earlier[self.residual]
            return (
                f"adds layer {self.residual}, which is {height}×{width} pixels, to "
                f"{out[0]}×{out[1]}; residual links need equal sizes"
            )
        return None
