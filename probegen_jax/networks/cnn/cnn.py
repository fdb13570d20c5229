"""CNNs: convolutions with activations and residual links, average pooling, a linear head.

Enough for the Small CNN Zoo (Unterthiner et al., 2020) and the CNN Wild Park (Kofinas et al.,
2024).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks.activations import ACTIVATIONS, unknown_activation
from probegen_jax.networks.cnn import forward, one_by_one, seen, state_dict
from probegen_jax.networks.cnn.layer import PER_NETWORK, ConvLayer
from probegen_jax.networks.contract import check_at_least_one, check_finite, usual_block_sizes
from probegen_jax.networks.images import ImageSpec
from probegen_jax.networks.maps import Reduce, WithMaps
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.pixels import Pixels
from probegen_jax.networks.shapes import (
    affine,
    size_of,
)

CnnWeights = dict[str, Any]

# Of a layer's output for one image: more than zoos have, few enough for any memory.
_MOST_VALUES = 2**22


@dataclasses.dataclass(frozen=True)
class CnnSpec(WithMaps, ImageSpec):
    """The static part of a CNN: everything but its weights.

    The weights are `{"layers": ({"kernel": (k, k, in, out), "bias": (out,)}, ...), "head":
    {"kernel": (C, classes), "bias": (classes,)}}`, and `"activation": int32 ()`, an index into
    `activations`, if that is not empty.

    Attributes:
      activations: what a network of the zoo may choose for its layers marked `PER_NETWORK`.
      block_size: networks of a batch that run side by side; if None, one after another on a CPU,
        where activations then fit the cache, else all.
      platform: see `Options`.
      pixels: see `NetworkSpec`.
    """

    layers: tuple[ConvLayer, ...]
    num_classes: int = 10
    image_shape: tuple[int, int, int] = (32, 32, 3)
    activations: tuple[str, ...] = ()
    block_size: int | None = None
    platform: str = dataclasses.field(default="cpu", repr=False)  # a zoo's cache knows its repr
    pixels: Pixels | None = dataclasses.field(default=None, repr=False, compare=False)

    vmap_seeds: ClassVar[bool] = False  # seeds side by side gain nothing
    needs_config: ClassVar[bool] = True

    def __post_init__(self):
        check_at_least_one(num_classes=self.num_classes, block_size=self.block_size)
        if not self.layers:
            raise UserError("a CNN needs at least one convolution; its list of layers is empty")
        for name in self.activations:
            if name not in ACTIVATIONS:
                raise UserError(unknown_activation(name))
        size, channels = self.image_shape[:2], self.image_shape[2]
        earlier: list[tuple[int, int]] = []
        for index, layer in enumerate(self.layers):
            problem = layer.problem(size, channels, earlier, bool(self.activations))
            if problem is not None:
                raise UserError(f"layer {index}: {problem}")
            size, channels = layer.out_sizes(size), layer.out_channels
            if math.prod(size) * channels > _MOST_VALUES:
                raise UserError(
                    f"layer {index}: {size[0]}×{size[1]} pixels of {channels} channels are too many"
                )
            earlier.append(size)

    @property
    def num_weights(self) -> int:
        weights = self.abstract()
        return size_of((weights["layers"], weights["head"]))

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each layer's output."""
        sizes = [self.image_shape[:2]]
        for layer in self.layers:
            sizes.append(layer.out_sizes(sizes[-1]))
        return tuple(sizes[1:])

    def abstract(self) -> CnnWeights:
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

        def draw(shape: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
            bound = 1 / math.sqrt(math.prod(shape["kernel"].shape[:-1]))
            return {
                name: jax.random.uniform(next(keys), shape[name].shape, jnp.float32, -bound, bound)
                for name in ("kernel", "bias")
            }

        weights: CnnWeights = {
            "layers": tuple(map(draw, shapes["layers"])),
            "head": draw(shapes["head"]),
        }
        if self.activations:
            weights["activation"] = jax.random.randint(next(keys), (), 0, len(self.activations))
        return weights

    def apply(self, weights: CnnWeights, probes: Float[Array, "P H W C"]) -> Float[Array, "P R"]:
        """One network's logits for every probe; differentiable in weights and probes.

        Probes are images, normalised as the network was trained on them.
        """
        self.check_images(probes)
        convolutions = [layer.convolve for layer in self.layers]
        return forward.run(self.layers, self.activations, weights, probes, convolutions)

    def respond(
        self, weights: CnnWeights, probes: Float[Array, "P H W C"]
    ) -> Float[Array, "B P R"]:
        """Every network of a batch on every probe; meant to be differentiated in the probes."""
        self.check_images(probes)
        if self.block_size is None and self.platform == "gpu":
            return self._side_by_side(weights, probes)
        if self.block_size is None and self.platform != "cpu":
            return super().respond(weights, probes)
        if self.block_size is None and one_by_one.suits(self.layers, self.activations):
            given = (self.layers, self.activations, None, weights, probes, None)
            return one_by_one.respond(*given)[0]
        first = forward.patches(probes, self.layers[0])

        # Run once more on the way back: that costs less than what a loop would have to keep.
        @jax.checkpoint
        def one(network):
            return forward.run_on_patches(self.layers, self.activations, network, first)

        return jax.lax.map(one, weights, batch_size=self.block_size)

    def _side_by_side(
        self, weights: CnnWeights, probes: Float[Array, "P H W C"]
    ) -> Float[Array, "B P R"]:
        """All networks at once, with matmuls over patches where these fit the memory.

        Convolutions with kernels of many networks become grouped ones, and a GPU's library runs
        these a group after the other: a step on CIFAR10-GS takes more than twice as long with them.
        """
        networks = weights["head"]["kernel"].shape[0]
        first = forward.patches(probes, self.layers[0])  # shared by all networks

        def one(network):
            return forward.run_on_patches(
                self.layers, self.activations, network, first, networks=networks
            )

        return jax.vmap(one)(weights)

    def describe_layers(
        self, weights: CnnWeights
    ) -> tuple[Float[Array, "B L 24"], Bool[Array, "B L"]]:
        return seen.describe(self.layers, self.sizes, self.activations, weights)

    def respond_with_maps(
        self,
        weights: CnnWeights,
        probes: Float[Array, "P H W C"],
        reduce: Reduce,
        queries: Float[Array, "B L Q"],
    ) -> tuple[Float[Array, "B P R"], Float[Array, "B P L K"]]:
        self.check_images(probes)
        together = self.block_size is None and self.platform != "cpu"
        suits = one_by_one.suits(self.layers, self.activations)
        if self.block_size is None and self.platform == "cpu" and suits:
            given = (self.layers, self.activations, reduce, weights, probes, queries)
            return one_by_one.respond(*given)
        networks = weights["head"]["kernel"].shape[0] if together else None
        one = seen.respond(self.layers, self.activations, probes, reduce, networks)
        if together:
            return jax.vmap(one)(weights, queries)
        each = (weights, queries)
        return jax.lax.map(lambda pair: one(*pair), each, batch_size=self.block_size)

    def census(self, known: CnnWeights) -> dict[str, dict[str, int]]:
        if not self.activations:
            return {}
        counts = np.bincount(np.asarray(known["activation"]), minlength=len(self.activations))
        return {"activations": dict(zip(self.activations, counts.tolist(), strict=True))}

    def block_sizes(self, batch: int) -> Sequence[int | None]:
        return usual_block_sizes(batch)

    def with_probe_shape(self, shape: tuple[int, int, int]) -> "CnnSpec":
        """The same convolutions on images of another size."""
        return dataclasses.replace(self, image_shape=shape)

    def expected(self, options: ReadOptions) -> str:
        if any(layer.activation != PER_NETWORK for layer in self.layers):
            self._reads_no_files()
        channels = [self.layers[0].in_channels, *(x.out_channels for x in self.layers)]
        return (
            f"a CNN of {'→'.join(map(str, channels))} channels and {self.num_classes} classes "
            "with arrays layers.0.weight to fc.bias, and its activation: one of "
            f"{', '.join(self.activations)}"
        )

    def file_shapes(
        self, config: Mapping[str, Any] | None, name: str, options: ReadOptions
    ) -> dict[str, tuple[int, ...]]:
        layers = [(each.in_channels, each.out_channels, each.kernel) for each in self.layers]
        return state_dict.shapes(layers, self.num_classes)

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
        if isinstance(chosen, list | tuple) and chosen and all(x == chosen[0] for x in chosen):
            chosen = chosen[0]
        if chosen not in self.activations:
            raise BadNetworkError(name, f"its activation is {chosen!r}")
        try:
            weights = state_dict.from_torch(state)
            if others := state.keys() - self.file_shapes(config, name, options).keys():
                raise UserError(f"has {min(others)}, which such a network has not")
            weights["activation"] = np.int32(self.activations.index(chosen))
            self.check(weights, name)
        except KeyError as error:
            raise BadNetworkError(name, f"has no {error.args[0]}") from error
        except UserError as error:
            fault = str(error).removeprefix(f"network {name}: ")  # which its row says anyway
            raise BadNetworkError(name, fault) from error
        return weights

    def is_stacked(self, networks: Any) -> bool:
        return isinstance(networks, Mapping) and "layers" in networks

    def check(self, weights: CnnWeights, network: str) -> None:
        """Raises a `UserError` naming `network` and layer where weights disagree with the spec."""
        shapes = self.abstract()
        depth = len(weights["layers"])
        if depth != len(self.layers):
            raise UserError(
                f"network {network}: has {depth} convolutions, its spec {len(self.layers)}"
            )
        wheres = (*(f"layer {index}" for index in range(depth)), "head")
        given, said = ((*x["layers"], x["head"]) for x in (weights, shapes))
        for where, arrays, shape_of in zip(wheres, given, said, strict=True):
            for name, expected in shape_of.items():
                if np.shape(arrays[name]) != expected.shape:
                    raise UserError(
                        f"network {network}: {where}: {name} has shape {np.shape(arrays[name])}, "
                        f"its spec says {expected.shape}"
                    )
        if self.activations and "activation" not in weights:
            raise UserError(
                f"network {network}: has no activation; it must choose one of "
                f"{', '.join(self.activations)}"
            )
