"""One network: a sequence of layers, and what it answers."""

import dataclasses
import math
from typing import Any

from jaxtyping import Array, Float

from probegen_jax.errors import UserError
from probegen_jax.networks.layered_cnn.fill import NO_CONVOLUTION
from probegen_jax.networks.layered_cnn.layer import ACTIVATIONS, Layer, Shape

Layers = tuple[Layer, ...]


def out_shapes(layers: Layers, image_shape: Shape) -> list[Shape]:
    """The shape of what goes into each layer, and of what comes out of the last.

    Raises:
      UserError: layers that do not fit together.
    """
    if not any(layer.kind == "conv" for layer in layers):
        raise UserError(NO_CONVOLUTION)
    shapes = [image_shape]
    for layer in layers:
        if layer.activation not in ACTIVATIONS:
            raise UserError(
                f"unknown activation {layer.activation!r}; known are {', '.join(ACTIVATIONS)}"
            )
        shapes.append(layer.out_shape(shapes[-1]))
    return shapes


def abstract(layers: Layers) -> tuple[Any, ...]:
    """Shapes of one network's weights."""
    return tuple(arrays for arrays in (layer.abstract() for layer in layers) if arrays is not None)


def volume(layers: Layers, image_shape: Shape) -> int:
    """Values that the layers put out for one image."""
    return sum(math.prod(shape) for shape in out_shapes(layers, image_shape)[1:])


def cost(layers: Layers, image_shape: Shape) -> int:
    """Multiplications of one network for one image."""
    shapes = out_shapes(layers, image_shape)
    return sum(each.multiplications(shape) for each, shape in zip(layers, shapes, strict=False))


def run(
    layers: Layers,
    weights: Any,
    x: Float[Array, "P ..."],
    as_matmul: bool = False,
    patches: bool = False,
) -> Float[Array, "P R"]:
    """The outputs of one network.

    Args:
      x: images or, if `patches`, those of the first layer, a convolution.
      as_matmul: see `Layer.run`.
    """
    left = iter(weights)
    for place, layer in enumerate(layers):
        arrays = None if layer.abstract() is None else next(left)
        if patches and place == 0:
            kernel = arrays["kernel"]
            x = x @ kernel.reshape(-1, kernel.shape[-1]) + arrays["bias"].reshape(1, 1, 1, -1)
        else:
            x = layer.run(x, arrays, as_matmul)
    return x


@dataclasses.dataclass(frozen=True)
class Run:
    """Networks of one architecture, run one at a time."""

    layers: Layers
    as_matmul: bool

    def __call__(self, weights: Any, probes: Float[Array, "P H W C"]) -> Float[Array, "P R"]:
        return run(self.layers, weights, probes, self.as_matmul)
