"""ResNets (He et al., Deep Residual Learning for Image Recognition, 2016), of any width and depth.

BatchNorm is part of the convolutions: with the statistics of training it is a scale and a shift.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from probegen_jax.errors import UserError
from probegen_jax.networks.activations import ACTIVATIONS, unknown_activation
from probegen_jax.networks.cnn import forward
from probegen_jax.networks.cnn.layer import ConvLayer
from probegen_jax.networks.contract import check_at_least_one, usual_block_sizes
from probegen_jax.networks.images import ImageSpec
from probegen_jax.networks.maps import MapsInOnePass, Reduce
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.pixels import Pixels
from probegen_jax.networks.resnet import layers, state_dict
from probegen_jax.networks.shapes import affine, size_of

Convolve = Callable[[ConvLayer, jax.Array, Any], jax.Array]

_BOTTLENECK = 4  # how much narrower the inside of a bottleneck is
_MOST_BLOCKS, _MOST_VALUES = 1000, 2**26  # of a network; of a layer's output for one image
# Networks with fewer weights leave an accelerator idle, one at a time.
_SMALL = 2**20


@dataclasses.dataclass(frozen=True)
class ResNetSpec(MapsInOnePass, ImageSpec):
    """The static part of a ResNet: everything but its weights.

    The weights are `{"stem": conv, "stages": (({"layers": (conv, ...), "shortcut": conv}, ...),
    ...), "head": {"kernel": (C, classes), "bias": (classes,)}}`, a conv being `{"kernel":
    (k, k, in, out), "bias": (out,)}`; a block has a shortcut only where shapes change.

    Attributes:
      widths: channels that the blocks of each stage put out.
      depths: blocks of each stage.
      block: "basic" (two 3×3 convolutions) or "bottleneck" (1×1, 3×3, 1×1, inside a quarter wide).
      stem_width: channels of the first convolution.
      stem_kernel: side of its kernel, which `stem_stride` belongs to, too.
      stem_pool: whether max pooling (3×3, stride 2) follows.
      strides: of each stage's first block; None is 1, then 2 for the others.
      stride_first: whether the first convolution of a bottleneck has its stride, instead of the
        3×3 one.
      shortcut: what goes around a block that changes shapes: "conv", or "pad": every second pixel,
        and channels of zeros before and after.
      activation: a name in `ACTIVATIONS`.
      block_size: networks of a batch that run side by side; if None, one after another where each
        is work enough: on a CPU, and elsewhere from a million weights.
      platform: see `Options`.
      pixels: see `NetworkSpec`.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    block: Literal["basic", "bottleneck"] = "basic"
    stem_width: int = 16
    stem_kernel: int = 3
    stem_stride: int = 1
    stem_pool: bool = False
    strides: tuple[int, ...] | None = None
    stride_first: bool = False
    shortcut: Literal["conv", "pad"] = "conv"
    activation: str = "relu"
    num_classes: int = 10
    image_shape: tuple[int, int, int] = (32, 32, 3)
    block_size: int | None = None
    platform: str = dataclasses.field(default="cpu", repr=False)  # a zoo's cache knows its repr
    pixels: Pixels | None = dataclasses.field(default=None, repr=False, compare=False)

    config_beside: ClassVar[bool] = True
    vmap_seeds: ClassVar[bool] = False  # seeds side by side gain nothing

    def __post_init__(self):
        strides = self._strides()
        sizes = (self.stem_width, self.stem_kernel, self.stem_stride, self.num_classes)
        numbers = (*self.widths, *self.depths, *strides, *sizes, *self.image_shape)
        if min(numbers) < 1 or not self.widths:
            raise UserError(
                f"a ResNet of widths {self.widths}, depths {self.depths}, strides {strides}, "
                f"stem_width {self.stem_width}, stem_kernel {self.stem_kernel}, stem_stride "
                f"{self.stem_stride}, {self.num_classes} classes and images {self.image_shape} "
                "cannot be: there must be a stage, and each number at least 1"
            )
        if not len(self.widths) == len(self.depths) == len(strides):
            raise UserError(
                f"widths {self.widths}, depths {self.depths} and strides {strides} must be "
                "equally many: one of each for a stage"
            )
        if self.stem_kernel % 2 == 0:
            raise UserError(f"stem_kernel is {self.stem_kernel}; it must be odd")
        if self.block == "bottleneck" and any(width % _BOTTLENECK for width in self.widths):
            raise UserError(f"widths are {self.widths}; those of bottlenecks are multiples of 4")
        if self.activation not in ACTIVATIONS:
            raise UserError(unknown_activation(self.activation))
        if sum(self.depths) > _MOST_BLOCKS or self.num_weights >= 2**31:
            raise UserError(
                f"a ResNet of widths {self.widths} and depths {self.depths} is too large: at most "
                f"{_MOST_BLOCKS} blocks, and fewer than 2³¹ weights"
            )
        widest = max(self.stem_width, *self.widths)
        if math.prod(self.image_shape[:2]) * widest > _MOST_VALUES * self.stem_stride**2:
            raise UserError(f"images of {self.image_shape} are too large for {widest} channels")
        check_at_least_one(block_size=self.block_size)

    def _strides(self) -> tuple[int, ...]:
        return (1, *[2] * (len(self.widths) - 1)) if self.strides is None else self.strides

    @property
    def stem(self) -> ConvLayer:
        """The first convolution."""
        kernel, channels = self.stem_kernel, self.image_shape[2]
        padding, activation = kernel // 2, self.activation
        return ConvLayer(channels, self.stem_width, kernel, self.stem_stride, padding, activation)

    @property
    def stages(self) -> tuple[tuple[layers.Block, ...], ...]:
        """The blocks, stage by stage."""
        channels, stages = self.stem_width, []
        for width, depth, stride in zip(self.widths, self.depths, self._strides(), strict=True):
            blocks = [self._block(channels, width, stride)]
            blocks += [self._block(width, width, 1)] * (depth - 1)
            stages.append(tuple(blocks))
            channels = width
        return tuple(stages)

    def _block(self, channels: int, width: int, stride: int) -> layers.Block:
        act = self.activation
        changes = channels != width or stride != 1
        shortcut = ConvLayer(channels, width, 1, stride, 0, "none") if changes else None
        if self.block == "basic":
            first = ConvLayer(channels, width, 3, stride, 1, act)
            return layers.Block((first, ConvLayer(width, width, 3, 1, 1, "none")), shortcut)
        inner = width // _BOTTLENECK
        before, within = (stride, 1) if self.stride_first else (1, stride)
        three = (
            ConvLayer(channels, inner, 1, before, 0, act),
            ConvLayer(inner, inner, 3, within, 1, act),
            ConvLayer(inner, width, 1, 1, 0, "none"),
        )
        return layers.Block(three, shortcut)

    @property
    def num_weights(self) -> int:
        return size_of(self.abstract())

    def abstract(self) -> dict[str, Any]:
        def block(block: layers.Block) -> dict[str, Any]:
            arrays: dict[str, Any] = {"layers": tuple(map(layers.shapes, block.layers))}
            if block.shortcut is not None and self.shortcut == "conv":
                arrays["shortcut"] = layers.shapes(block.shortcut)
            return arrays

        return {
            "stem": layers.shapes(self.stem),
            "stages": tuple(tuple(map(block, blocks)) for blocks in self.stages),
            "head": affine(self.widths[-1], self.num_classes),
        }

    def init(self, key: Key[Array, ""]) -> dict[str, Any]:
        """One network at its start: normal kernels by their outputs (He et al.), biases of 0."""
        shapes = self.abstract()
        leaves, tree = jax.tree.flatten(shapes)
        keys = jax.random.split(key, len(leaves))

        def draw(shape: jax.ShapeDtypeStruct, key: jax.Array) -> jax.Array:
            if len(shape.shape) == 1:
                return jnp.zeros(shape.shape)
            fan_out = math.prod(shape.shape) // shape.shape[-2]
            return math.sqrt(2 / fan_out) * jax.random.normal(key, shape.shape)

        return jax.tree.unflatten(tree, map(draw, leaves, keys))

    def run(
        self,
        weights: Any,
        x: Float[Array, "P ..."],
        convolve: Convolve | None = None,
        see: layers.See | None = None,
    ) -> Float[Array, "P R"]:
        """One network's logits, with any way to convolve.

        Args:
          x: images, or what the first convolution is given by `convolve`.
          convolve: from a layer, what it reads and its weights to what comes before its activation;
            None is a plain convolution and bias. In training, BatchNorm belongs to it.
          see: is shown the maps of the stem, before it pools, and of each block, behind its sum.
        """
        convolve = convolve or layers.convolve
        act = ACTIVATIONS[self.activation]
        act_and_show = layers.shown(act, see)
        x = act_and_show(convolve(self.stem, x, weights["stem"]))
        if self.stem_pool:
            x = layers.max_pool(x)
        for blocks, arrays_of in zip(self.stages, weights["stages"], strict=True):
            for block, arrays in zip(blocks, arrays_of, strict=True):
                around, last = x, block.layers[-1]
                for layer, conv in zip(block.layers, arrays["layers"], strict=True):
                    x = convolve(layer, x, conv)
                    x = x if layer is last else act(x)
                if block.shortcut is not None and self.shortcut == "conv":
                    around = convolve(block.shortcut, around, arrays["shortcut"])
                elif block.shortcut is not None:
                    around = layers.padded(block.shortcut, around)
                x = act_and_show(x + around)
        return forward.head(weights, x)

    def apply(self, weights: Any, probes: Float[Array, "P H W C"]) -> Float[Array, "P R"]:
        """One network's logits for every probe; differentiable in weights and probes.

        Probes are images, normalised as the network was trained on them.
        """
        self.check_images(probes)
        return self.run(weights, probes)

    def _answers(
        self, reduce: Reduce | None, weights: Any, probes: jax.Array, queries: Any
    ) -> tuple[Float[Array, "B P R"], Float[Array, "B P L K"] | None]:
        """See `MapsInOnePass`; the maps are those that `run` shows."""
        self.check_images(probes)
        first = functools.partial(forward.patches, probes, self.stem)
        alone = self.block_size is not None or self.platform == "cpu" or self.num_weights >= _SMALL
        x, convolve = probes, layers.convolve
        if not alone:
            together = functools.partial(self._on_patches, networks=len(weights["head"]["bias"]))
            x, convolve = first(), together
        elif self.block_size is None and self.platform == "cpu":
            # A convolution inside a loop runs on a single thread there, a matmul on all.
            x, convolve = first(), self._on_patches

        def one(network: Any, queries_LxQ: Any) -> tuple[jax.Array, jax.Array | None]:
            run = functools.partial(self.run, network, x, convolve)
            return layers.and_maps(run, reduce, queries_LxQ)

        # Run once more on the way back, so that what one network computes is kept, not what all do.
        once_more = jax.checkpoint(one)
        if not alone:
            return jax.vmap(one if reduce is None else once_more)(weights, queries)
        given = (weights, queries)
        return jax.lax.map(lambda each: once_more(*each), given, batch_size=self.block_size)

    def describe_layers(self, weights: Any) -> tuple[Float[Array, "B L 24"], Bool[Array, "B L"]]:
        """See `WithMaps`; of a block, the largest kernel, and the strides of all multiplied."""
        parts, number = [self.stem, *itertools.chain(*self.stages)], len(weights["head"]["bias"])
        said = layers.describe(parts, self.image_shape[:2], self.stem_pool, self.activation)
        return jnp.broadcast_to(said, (number, *said.shape)), jnp.ones((number, len(parts)), bool)

    def _on_patches(
        self, layer: ConvLayer, x: jax.Array, conv: Any, networks: int = 1
    ) -> jax.Array:
        """A convolution as a matmul, if the patches of so many networks fit the memory.

        Convolutions with kernels of many networks become grouped ones, and a GPU's library runs
        these a group after the other. Patches for the stem are made once for all networks.
        """
        if layer == self.stem:
            z = forward.matmul(x, conv["kernel"])
        else:
            z = forward.convolved(layer, x, conv["kernel"], networks)
        return z + conv["bias"].reshape(1, 1, 1, -1)

    def block_sizes(self, batch: int) -> Sequence[int | None]:
        return usual_block_sizes(batch)

    def with_probe_shape(self, shape: tuple[int, int, int]) -> "ResNetSpec":
        """The same convolutions on images of another size."""
        return dataclasses.replace(self, image_shape=shape)

    @classmethod
    def from_files(
        cls,
        config: Mapping[str, Any] | None,
        state: Mapping[str, np.ndarray],
        name: str,
        given: Mapping[str, Any],
    ) -> "ResNetSpec":
        """See `NetworkSpec`; what may be given is in `state_dict.architecture`."""
        return cls.from_json(state_dict.architecture(config, state, name, given))

    def expected(self, options: ReadOptions) -> str:
        return (
            f"a ResNet of {self.block} blocks, widths {self.widths}, depths {self.depths} and "
            f"{self.num_classes} classes, under the names of torchvision, timm or transformers"
        )

    def read(
        self,
        state: Mapping[str, np.ndarray],
        config: Mapping[str, Any] | None,
        name: str,
        options: ReadOptions,
    ) -> Any:
        """See `NetworkSpec`; names as torchvision, timm or transformers give them."""
        state_dict.check_config(config, self, name)
        return state_dict.read(self, state, name)
