"""CNNs: the image classifiers of the CNN zoos.

A network is convolutions with an activation each, optional residual links between them, global
average pooling and a linear head: enough for the Small CNN Zoo (Unterthiner et al., 2020) and the
CNN Wild Park (Kofinas et al., 2024).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks.activations import ACTIVATIONS, unknown_activation
from probegen_jax.networks.cnn import forward, matmuls, one_by_one
from probegen_jax.networks.cnn.layer import PER_NETWORK, ConvLayer
from probegen_jax.networks.cnn.state_dict import from_torch
from probegen_jax.networks.contract import (
    NetworkSpec,
    ReadOptions,
    check_at_least_one,
    check_finite,
)

CnnWeights = dict[str, Any]

# Of a layer's output for one image: more than zoos have, few enough for any memory.
_MOST_VALUES = 2**22


@dataclasses.dataclass(frozen=True)
class CnnSpec(NetworkSpec):
    """The static part of a CNN: everything but its weights.

    The weights are `{"layers": ({"kernel": (k, k, in, out), "bias": (out,)}, ...), "head":
    {"kernel": (C, classes), "bias": (classes,)}}`, and `"activation": int32 ()`, an index into
    `activations`, if that is not empty.

    Attributes:
      layers: the convolutions, first to last.
      num_classes: outputs of the head, R.
      image_shape: height, width and channels of an image.
      activations: what a network of the zoo may choose for its layers marked `PER_NETWORK`.
      block_size: networks of a batch that run side by side; if None, one after another on a CPU,
        where activations then fit the cache, else all.
    """

    layers: tuple[ConvLayer, ...]
    num_classes: int = 10
    image_shape: tuple[int, int, int] = (32, 32, 3)
    activations: tuple[str, ...] = ()
    block_size: int | None = None

    vmap_seeds: ClassVar[bool] = False  # seeds side by side gain nothing
    needs_config: ClassVar[bool] = True

    def __post_init__(self):
        check_at_least_one(num_classes=self.num_classes, block_size=self.block_size)
        if not self.layers:
            raise UserError("a CNN needs at least one convolution; its list of layers is empty")
        for name in self.activations:
            if name not in ACTIVATIONS:
                raise UserError(unknown_activation(name))
        sizes: list[tuple[int, int]] = []
        height, width, channels = self.image_shape
        for index, layer in enumerate(self.layers):
            problem = layer.problem(index, channels, bool(self.activations))
            if problem is not None:
                raise UserError(f"layer {index}: {problem}")
            out = (layer.out_size(height), layer.out_size(width))
            if min(out) < 1:
                problem = (
                    f"a {layer.kernel}×{layer.kernel} kernel with padding {layer.padding} does not "
                    f"fit its {height}×{width} input"
                )
            elif layer.residual >= 0 and sizes[layer.residual] != out:
                problem = (
                    f"adds layer {layer.residual}, which is {_by(sizes[layer.residual])} pixels, "
                    f"to {_by(out)}; residual links need equal sizes"
                )
            if problem is None and math.prod(out) * layer.out_channels > _MOST_VALUES:
                problem = f"{_by(out)} pixels of {layer.out_channels} channels are too many"
            if problem is not None:
                raise UserError(f"layer {index}: {problem}")
            (height, width), channels = out, layer.out_channels
            sizes.append(out)

    @property
    def probe_shape(self) -> tuple[int, int, int]:
        """Shape of one probe: (H, W, C)."""
        return self.image_shape

    @property
    def response_dim(self) -> int:
        """Values in one response, R: the logits."""
        return self.num_classes

    @property
    def num_weights(self) -> int:
        """Weights of one network, biases included."""
        convolutions = sum(
            layer.kernel**2 * layer.in_channels * layer.out_channels + layer.out_channels
            for layer in self.layers
        )
        return convolutions + (self.layers[-1].out_channels + 1) * self.num_classes

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each layer's output."""
        sizes, (height, width) = [], self.image_shape[:2]
        for layer in self.layers:
            height, width = layer.out_size(height), layer.out_size(width)
            sizes.append((height, width))
        return tuple(sizes)

    def abstract(self) -> CnnWeights:
        """Shapes and types of one network's weights, as `jax.ShapeDtypeStruct`s."""

        def affine(*shape: int) -> dict[str, jax.ShapeDtypeStruct]:
            return {
                "kernel": jax.ShapeDtypeStruct(shape, jnp.float32),
                "bias": jax.ShapeDtypeStruct(shape[-1:], jnp.float32),
            }

        weights: CnnWeights = {
            "layers": tuple(
                affine(layer.kernel, layer.kernel, layer.in_channels, layer.out_channels)
                for layer in self.layers
            ),
            "head": affine(self.layers[-1].out_channels, self.num_classes),
        }
        if self.activations:
            weights["activation"] = jax.ShapeDtypeStruct((), jnp.int32)
        return weights

    def init(self, key: Key[Array, ""]) -> CnnWeights:
        """One network in PyTorch's default initialisation: U(±1/√fan_in), biases too.

        A choice of activation, where there is one, is drawn uniformly.
        """
        shapes = self.abstract()
        keys = iter(jax.random.split(key, 2 * len(self.layers) + 3))

        def affine(shape: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
            bound = 1 / math.sqrt(math.prod(shape["kernel"].shape[:-1]))
            return {
                name: jax.random.uniform(next(keys), shape[name].shape, jnp.float32, -bound, bound)
                for name in ("kernel", "bias")
            }

        weights: CnnWeights = {
            "layers": tuple(affine(layer) for layer in shapes["layers"]),
            "head": affine(shapes["head"]),
        }
        if self.activations:
            weights["activation"] = jax.random.randint(next(keys), (), 0, len(self.activations))
        return weights

    def apply(self, weights: CnnWeights, probes: Float[Array, "P H W C"]) -> Float[Array, "P R"]:
        """One network on every probe, plainly; differentiable in weights and probes.

        Args:
          weights: one network, as from `init`.
          probes: images, normalised as the network was trained on them.

        Returns:
          The logits.
        """
        check_images(probes, self.image_shape)

        def convolve(index: int, x: jax.Array, kernel: Any) -> jax.Array:
            return self.layers[index].convolve(x, kernel)

        return forward.run(self.layers, self.activations, weights, probes, convolve)

    def respond(
        self, weights: CnnWeights, probes: Float[Array, "P H W C"]
    ) -> Float[Array, "B P R"]:
        """Every network of a batch on every probe; meant to be differentiated in the probes.

        Args:
          weights: stacked, with a leading network axis B.
          probes: images, normalised as the networks were trained on them.
        """
        check_images(probes, self.image_shape)
        if self.block_size is None and jax.default_backend() != "cpu":
            return jax.vmap(self.apply, in_axes=(0, None))(weights, probes)
        if self.block_size is None and one_by_one.suits(self.layers, self.activations):
            return one_by_one.respond(self.layers, self.activations, weights, probes)
        first = matmuls.patches(probes, self.layers[0])

        # Run once more on the way back: that costs less than what a loop would have to keep.
        @jax.checkpoint
        def one(network):
            return matmuls.apply(self.layers, self.activations, network, first)

        return jax.lax.map(one, weights, batch_size=self.block_size)

    def with_block_size(self, block_size: int | None) -> "CnnSpec":
        """See `NetworkSpec`."""
        return dataclasses.replace(self, block_size=block_size)

    def block_sizes(self, batch: int) -> Sequence[int | None]:
        """See `NetworkSpec`."""
        return (None, *(size for size in (1, 4, 16) if size < batch))

    def with_probe_shape(self, shape: tuple[int, int, int]) -> "CnnSpec":
        """The same convolutions on images of another size."""
        return dataclasses.replace(self, image_shape=shape)

    def expected(self, options: ReadOptions) -> str:
        """See `NetworkSpec`."""
        if any(layer.activation != PER_NETWORK for layer in self.layers):
            self._reads_no_files()
        channels = [self.layers[0].in_channels, *(x.out_channels for x in self.layers)]
        return (
            f"a CNN of {'→'.join(map(str, channels))} channels and {self.num_classes} classes "
            "with arrays layers.0.weight to fc.bias, and its activation: one of "
            f"{', '.join(self.activations)}"
        )

    def read(
        self,
        state: Mapping[str, np.ndarray],
        config: Mapping[str, Any] | None,
        name: str,
        options: ReadOptions,
    ) -> CnnWeights:
        """See `NetworkSpec`; the config says one activation, for all layers."""
        self.expected(options)  # refuses files where activations are no choice of the network
        check_finite(name, state)
        chosen = (config or {}).get("activation")
        if isinstance(chosen, list) and len(chosen) > 0 and chosen == chosen[:1] * len(chosen):
            chosen = chosen[0]
        if chosen not in self.activations:
            raise BadNetworkError(name, f"its activation is {chosen!r}")
        try:
            weights = from_torch(state)
            weights["activation"] = np.int32(self.activations.index(chosen))
            self.check(weights, name)
        except KeyError as error:
            raise BadNetworkError(name, f"has no {error.args[0]}") from error
        except UserError as error:
            fault = str(error).removeprefix(f"network {name}: ")  # which its row says anyway
            raise BadNetworkError(name, fault) from error
        return weights

    def is_stacked(self, networks: Any) -> bool:
        """See `NetworkSpec`."""
        return isinstance(networks, Mapping) and "layers" in networks

    def check(self, weights: CnnWeights, network: str) -> None:
        """Raises a `UserError` naming `network` and layer where weights disagree with the spec.

        Args:
          weights: one network; only shapes are looked at.
          network: how to name it in the message: a path, or its place in the zoo.
        """
        shapes = self.abstract()
        found = len(weights["layers"])
        if found != len(self.layers):
            raise UserError(
                f"network {network}: has {found} convolutions, its spec {len(self.layers)}"
            )
        pairs = [
            (f"layer {index}", layer, shape)
            for index, (layer, shape) in enumerate(
                zip(weights["layers"], shapes["layers"], strict=True)
            )
        ]
        for where, affine, shape in [*pairs, ("head", weights["head"], shapes["head"])]:
            for name, expected in shape.items():
                if tuple(np.shape(affine[name])) != expected.shape:
                    raise UserError(
                        f"network {network}: {where}: {name} has shape "
                        f"{tuple(np.shape(affine[name]))}, its spec says {expected.shape}"
                    )
        if self.activations and "activation" not in weights:
            raise UserError(
                f"network {network}: has no activation; it must choose one of "
                f"{', '.join(self.activations)}"
            )


def check_images(probes: Any, image_shape: tuple[int, int, int]) -> None:
    """Raises a `UserError` unless `probes` (anything with a shape) are (P, *image_shape)."""
    if len(probes.shape) != 4 or tuple(probes.shape[1:]) != image_shape:
        raise UserError(
            f"probes have shape {tuple(probes.shape)}, but these networks read images "
            f"(P, {', '.join(map(str, image_shape))})"
        )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
