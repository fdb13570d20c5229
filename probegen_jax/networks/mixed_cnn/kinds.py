"""Kinds of layers: what decides a layer's code."""

import dataclasses
from typing import Literal

Shape = tuple[int, int, int]
Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True, order=True)
class Kind:
    """Everything about a layer but its numbers.

    Kernel, stride and padding are in pixels; inputs and outputs (height, width, channels).
    """

    kernel: int
    stride: int
    padding: int
    inputs: Shape
    outputs: Shape

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        """(k, k, in, out)."""
        return (self.kernel, self.kernel, self.inputs[2], self.outputs[2])
