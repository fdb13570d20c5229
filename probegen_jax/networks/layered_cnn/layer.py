"""One layer of a CNN that is a sequence of layers: what it is, its shapes, what it computes."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probegen_jax.errors import UserError
from probegen_jax.networks import activations
from probegen_jax.networks.shapes import affine

# Of one image: height, width and channels; or, once it is flat, a number of values.
Shape = tuple[int, ...]
Pair = tuple[int, int]  # of rows and columns

ACTIVATIONS = MappingProxyType(
    {
        **activations.ACTIVATIONS,
        "elu": jax.nn.elu,
        "hardswish": jax.nn.hard_swish,
        "mish": jax.nn.mish,
        "relu6": jax.nn.relu6,
        "silu": jax.nn.silu,
        "softplus": jax.nn.softplus,
    }
)
Kind = Literal[
    "conv",
    "linear",
    "norm",
    "activation",
    "max_pool",
    "avg_pool",
    "adaptive_pool",
    "global_pool",
    "global_max_pool",
    "flatten",
]
SAME = (-1, -1)  # padding that keeps an image's size, until the kernel's is seen
# Of a layer's output for one image: more than networks have, few enough for any memory.
_MOST_VALUES = 2**26


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
      kind: "norm" is a scale and a shift by channel: a BatchNorm that could not be folded.
      key: what the names of its arrays begin with in files, before `.weight`.
      norm: the key of the BatchNorm after it, which is folded into it.
      epsilon: that BatchNorm's, or, of kind "norm", its own.
      activation: of kind "activation": a name in `ACTIVATIONS`.
      slope: of "leaky_relu", below 0.
      inputs: channels or values that it reads, `outputs` puts out; 0 until its arrays are seen.
      kernel: pixels, as `stride`, `padding` (zeros on each side) and `dilation` are; of kind
        "adaptive_pool", the pixels that it averages to.
      groups: of channels that a convolution keeps apart.
    """

    kind: Kind
    key: str | None = None
    norm: str | None = None
    epsilon: float = 1e-5
    activation: str = "none"
    slope: float = 0.01
    inputs: int = 0
    outputs: int = 0
    kernel: Pair = (0, 0)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def called(self) -> str:
        """Its name in messages."""
        return f"{self.kind} {self.key!r}" if self.key else self.kind

    def abstract(self) -> dict[str, jax.ShapeDtypeStruct] | None:
        """Its arrays: `kernel` and `bias`; None where it has none."""
        if self.kind == "conv":
            return affine(*self.kernel, self.inputs // self.groups, self.outputs)
        if self.kind == "linear":
            return affine(self.inputs, self.outputs)
        return affine(self.outputs) if self.kind == "norm" else None

    def out_shape(self, shape: Shape) -> Shape:
        """The shape of what it makes of one image or vector.

        Raises:
          UserError: it cannot read such a thing.
        """
        out = self._out_shape(shape)
        if math.prod(out) > _MOST_VALUES:
            raise UserError(f"{self.called}: {shown(out)} are too many values")
        return out

    def _out_shape(self, shape: Shape) -> Shape:
        if self.kind in ("activation", "norm"):
            self._check(self.kind == "activation" or self.inputs == shape[-1], shape)
            return shape
        if self.kind == "flatten":
            return (math.prod(shape),)
        if self.kind == "linear":
            self._check(shape == (self.inputs,), shape)
            return (self.outputs,)
        if len(shape) != 3:
            raise UserError(f"{self.called}: reads images, but is given {shown(shape)}")
        if self.kind in ("global_pool", "global_max_pool"):
            return (shape[2],)
        if self.kind == "adaptive_pool":
            if min(self.kernel) < 1 or any(shape[i] % self.kernel[i] for i in range(2)):
                raise UserError(
                    f"{self.called}: {shape[0]}×{shape[1]} pixels cannot be averaged in equal "
                    f"parts to {self.kernel[0]}×{self.kernel[1]}"
                )
            return (*self.kernel, shape[2])
        numbers = (*self.kernel, *self.stride, *self.dilation, self.groups)
        if min(numbers) < 1 or min(self.padding) < 0:
            raise UserError(f"{self.called}: kernel, stride, dilation and groups are at least 1")
        if self.kind == "conv":
            self._check(self.inputs == shape[2], shape)
            if self.inputs % self.groups or self.outputs % self.groups:
                raise UserError(
                    f"{self.called}: {self.inputs} channels to {self.outputs} do not make "
                    f"{self.groups} equal groups"
                )
        sizes = [
            (shape[i] + 2 * self.padding[i] - self.dilation[i] * (self.kernel[i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in range(2)
        ]
        if min(sizes) < 1:
            raise UserError(
                f"{self.called}: a kernel of {self.kernel[0]}×{self.kernel[1]} pixels does not fit "
                f"the {shape[0]}×{shape[1]} pixels that it is given"
            )
        return (*sizes, self.outputs if self.kind == "conv" else shape[2])

    def _check(self, fits: bool, shape: Shape) -> None:
        if not fits:
            what = "channels" if self.kind == "conv" else "values"
            raise UserError(
                f"{self.called}: reads {self.inputs} {what}, but is given {shown(shape)}"
            )

    def multiplications(self, shape: Shape) -> int:
        """Of one image, by its arrays."""
        arrays = self.abstract()
        if arrays is None:
            return 0
        places = math.prod(self.out_shape(shape)[:2]) if len(shape) == 3 else 1
        return places * math.prod(arrays["kernel"].shape)

    def run(
        self, x: Float[Array, "P ..."], arrays: Mapping[str, Any] | None, as_matmul: bool
    ) -> Float[Array, "P ..."]:
        """What it makes of images (P, H, W, C) or vectors (P, V).

        Args:
          as_matmul: whether convolutions are matmuls over patches: see `LayeredCnnSpec.respond`.
        """
        if self.kind == "activation":
            if self.activation == "leaky_relu":
                return jax.nn.leaky_relu(x, self.slope)
            return ACTIVATIONS[self.activation](x)
        if self.kind == "flatten":  # in torch's order
            return x if x.ndim == 2 else x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        if self.kind == "global_pool":
            return jnp.mean(x, axis=(1, 2))
        if self.kind == "global_max_pool":
            return jnp.max(x, axis=(1, 2))
        if self.kind == "adaptive_pool":
            parts = [(n, side // n) for n, side in zip(self.kernel, x.shape[1:3], strict=True)]
            return jnp.mean(x.reshape(x.shape[0], *parts[0], *parts[1], x.shape[3]), axis=(2, 4))
        if self.kind == "max_pool":
            return self._slide(x, -jnp.inf, functools.partial(functools.reduce, jnp.maximum))
        if self.kind == "avg_pool":
            return self._slide(x, 0.0, sum) / math.prod(self.kernel)
        assert arrays is not None
        kernel, bias = arrays["kernel"], arrays["bias"]
        if self.kind == "conv":
            x = self._convolve(x, kernel, as_matmul)
        else:
            x = x * kernel.reshape(*[1] * (x.ndim - 1), -1) if self.kind == "norm" else x @ kernel
        return x + bias.reshape(*[1] * (x.ndim - 1), -1)

    def _convolve(self, x: jax.Array, kernel: Any, as_matmul: bool) -> jax.Array:
        if as_matmul and self.groups == 1:
            return self.patches(x) @ kernel.reshape(-1, kernel.shape[-1])
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            self.stride,
            [(self.padding[0],) * 2, (self.padding[1],) * 2],
            rhs_dilation=self.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )

    def patches(self, x: Float[Array, "P H W C"]) -> Float[Array, "P h w V"]:
        """The values under the kernel at each output pixel, in the order of a kernel (k, k, in)."""
        return self._slide(x, 0.0, functools.partial(jnp.concatenate, axis=-1))

    def _slide(
        self, x: jax.Array, fill: float, together: Callable[[list[jax.Array]], jax.Array]
    ) -> jax.Array:
        """What is under the kernel, put together: first along columns, then along rows."""
        sizes = self.out_shape((*x.shape[1:3], self.inputs or x.shape[3]))
        pads = [(0, 0), *((pad, pad) for pad in self.padding), (0, 0)]
        x = jnp.pad(x, pads, constant_values=fill) if any(self.padding) else x
        for axis in (1, 0):
            step = self.stride[axis]
            reach = step * (sizes[axis] - 1) + 1
            starts = [self.dilation[axis] * k for k in range(self.kernel[axis])]
            slices = [
                jax.lax.slice_in_dim(x, start, start + reach, step, axis=axis + 1)
                for start in starts
            ]
            x = slices[0] if len(slices) == 1 else together(slices)
        return x


def shown(shape: Shape) -> str:
    """A shape in messages."""
    if len(shape) == 3:
        return f"{shape[0]}×{shape[1]} pixels of {shape[2]} channels"
    return f"{np.prod(shape):,} values"
