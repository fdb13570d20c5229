"""Vision transformers for classification (Dosovitskiy et al., 2021; DeiT: Touvron et al., 2021).

Class token, learned positions, pre-norm blocks, exact GELU: what Hugging Face calls
`ViTForImageClassification`, torchvision `VisionTransformer`, and timm `vit_*` and `deit_*`.
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
from probegen_jax.networks import vit_files
from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.contract import check_at_least_one, check_finite
from probegen_jax.networks.images import ImageSpec
from probegen_jax.networks.maps import DESCRIPTION, MapsInOnePass, Reduce, description, read
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.pixels import Pixels
from probegen_jax.networks.shapes import size_of

VitWeights = dict[str, Any]

_MOST_TOKENS = 2**16
# Activations of one network beyond this are computed again on the way back, block by block.
_KEPT_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class VitSpec(MapsInOnePass, ImageSpec):
    """The static part of a vision transformer: everything but its weights.

    The weights are `{"patches", "class_token", "positions", "blocks", "norm", "head"}`, those of
    all blocks stacked. Matrices are in torch's layout, (out, in), so that files are read as they
    are.

    Attributes:
      patch_size: side of the square patches that images are cut into.
      width: values of a token, D.
      heads: of each block's attention.
      mlp_width: hidden width of each block's MLP.
      norm_eps: of LayerNorms: 1e-12 in Hugging Face's models, 1e-6 in torchvision's and timm's.
      block_size: networks of a batch that run side by side; one after another, if None.
      pixels: see `NetworkSpec`.
    """

    image_shape: tuple[int, int, int] = (224, 224, 3)
    patch_size: int = 16
    width: int = 192
    depth: int = 12
    heads: int = 3
    mlp_width: int = 768
    num_classes: int = 1000
    norm_eps: float = 1e-6
    block_size: int | None = None
    pixels: Pixels | None = dataclasses.field(default=None, repr=False, compare=False)

    vmap_seeds: ClassVar[bool] = False  # memory for one network at a time
    config_beside: ClassVar[bool] = True

    def __post_init__(self):
        names = ("patch_size", "width", "depth", "heads", "mlp_width", "num_classes", "block_size")
        check_at_least_one(
            **{name: getattr(self, name) for name in names},
            **dict(zip(("height", "image width", "channels"), self.image_shape, strict=True)),
        )
        height, width, _ = self.image_shape
        if height % self.patch_size or width % self.patch_size:
            raise UserError(
                f"images of {height}×{width} pixels cannot be cut into patches of "
                f"{self.patch_size}×{self.patch_size}; correct image_size or patch_size"
            )
        if self.width % self.heads:
            raise UserError(
                f"tokens of {self.width} values cannot be split into {self.heads} heads; correct "
                "heads"
            )
        if self.tokens > _MOST_TOKENS or self.num_weights >= 2**31:
            raise UserError(
                f"a transformer of {self.num_weights:,} weights on {self.tokens:,} tokens is too "
                f"large; there may be 2³¹ weights and {_MOST_TOKENS:,} tokens"
            )
        if not 0 < self.norm_eps < 1:
            raise UserError(f"norm_eps is {self.norm_eps}; it must be above 0 and below 1")

    @property
    def tokens(self) -> int:
        """The patches of an image, and the class token."""
        return math.prod(self.grid) + 1

    @property
    def grid(self) -> tuple[int, int]:
        """How many patches an image has down and across."""
        height, width, _ = self.image_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def num_weights(self) -> int:
        return size_of(self.abstract())

    def abstract(self) -> VitWeights:
        def array(*shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, np.float32)

        def layer(*shape: int, stack: tuple[int, ...] = ()) -> dict[str, jax.ShapeDtypeStruct]:
            return {"weight": array(*stack, *shape), "bias": array(*stack, shape[0])}

        d, stack = self.width, (self.depth,)
        return {
            "patches": layer(d, self.image_shape[2] * self.patch_size**2),
            "class_token": array(d),
            "positions": array(self.tokens, d),
            "blocks": {
                "norm1": layer(d, stack=stack),
                "qkv": layer(3 * d, d, stack=stack),
                "out": layer(d, d, stack=stack),
                "norm2": layer(d, stack=stack),
                "fc1": layer(self.mlp_width, d, stack=stack),
                "fc2": layer(d, self.mlp_width, stack=stack),
            },
            "norm": layer(d),
            "head": layer(self.num_classes, d),
        }

    def init(self, key: Key[Array, ""]) -> VitWeights:
        """One network at its start: N(0, 0.02²), biases 0, norms 1 (Touvron et al., 2021)."""
        shapes = self.abstract()
        leaves = jax.tree.leaves_with_path(shapes)
        drawn = []
        for (path, leaf), own in zip(leaves, jax.random.split(key, len(leaves)), strict=True):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            if name.endswith("bias"):
                drawn.append(jnp.zeros(leaf.shape))
            elif "norm" in name:
                drawn.append(jnp.ones(leaf.shape))
            else:
                drawn.append(0.02 * jax.random.truncated_normal(own, -2, 2, leaf.shape))
        return jax.tree.unflatten(jax.tree.structure(shapes), drawn)

    def apply(self, weights: VitWeights, probes: Float[Array, "P H W C"]) -> Float[Array, "P R"]:
        """One network's logits for every probe; differentiable in weights and probes.

        Probes are images, normalised as the network was trained on them.
        """
        self.check_images(probes)
        return self._run(weights, self._cut(probes))[0]

    def _answers(
        self, reduce: Reduce | None, weights: VitWeights, probes: jax.Array, queries: Any
    ) -> tuple[Float[Array, "B P R"], Float[Array, "B P L K"] | None]:
        """See `MapsInOnePass`; with memory for `block_size` networks.

        The maps of a block are what it puts out for every patch, in the image's order. The class
        token is left out: what it says is in the response. Behind the sum of a block is no
        activation, so maps before and after it are the same.
        """
        self.check_images(probes)
        patches = self._cut(probes)

        @jax.checkpoint  # else a loop keeps the activations of all networks
        def one(pair):
            return self._run(pair[0], patches, reduce, pair[1])

        return jax.lax.map(one, (weights, queries), batch_size=self.block_size)

    def describe_layers(
        self, weights: VitWeights
    ) -> tuple[Float[Array, "B L 24"], Bool[Array, "B L"]]:
        """See `WithMaps`; a block is as a 1×1 convolution of patches, as its linear layers are."""
        index, number = jnp.arange(self.depth, dtype=jnp.int32), len(weights["class_token"])
        none = list(ACTIVATIONS).index("none")
        described = description(index, self.depth, (self.width,) * 2, self.grid, 1, 1, none)
        described_BxLxD = jnp.broadcast_to(described, (number, self.depth, DESCRIPTION))
        return described_BxLxD, jnp.ones((number, self.depth), bool)

    def block_sizes(self, batch: int) -> Sequence[int | None]:
        return (None, *(size for size in (4, 16) if size < batch))

    def _cut(self, images: Float[Array, "P H W C"]) -> Float[Array, "P T V"]:
        """Patches, each a row of values in the order (C, row, column), as torch's kernels are."""
        number, height, width, channels = images.shape
        side = self.patch_size
        grid = images.reshape(number, height // side, side, width // side, side, channels)
        return grid.transpose(0, 1, 3, 5, 2, 4).reshape(number, -1, channels * side**2)

    def _run(
        self,
        weights: VitWeights,
        patches: Float[Array, "P T V"],
        reduce: Reduce | None = None,
        queries: Any = None,
    ) -> tuple[Float[Array, "P R"], Float[Array, "P L K"] | None]:
        embedded = _linear(patches, weights["patches"])
        first = jnp.broadcast_to(weights["class_token"], (len(embedded), 1, self.width))
        x = jnp.concatenate([first, embedded], axis=1) + weights["positions"][None]
        rows = x.shape[0] * self.tokens * self.depth
        kept = 4 * rows * (9 * self.width + 2 * self.mlp_width + 2 * self.heads * self.tokens)

        def block(x: jax.Array, given: tuple[Any, Any]) -> tuple[jax.Array, jax.Array | None]:
            x = self._block(x, given[0])
            if reduce is None:
                return x, None
            maps = x[:, 1:].reshape(len(x), *self.grid, self.width)
            return x, read(reduce, maps, maps, given[1])

        run = block if kept < _KEPT_BYTES else jax.checkpoint(block)
        x, found = jax.lax.scan(run, x, (weights["blocks"], queries))
        logits = _linear(_norm(x[:, 0], weights["norm"], self.norm_eps), weights["head"])
        return logits, None if found is None else found.swapaxes(0, 1)

    def _block(self, x: Float[Array, "P T D"], block: Mapping[str, Any]) -> Float[Array, "P T D"]:
        number, tokens, _ = x.shape
        qkv = _linear(_norm(x, block["norm1"], self.norm_eps), block["qkv"])
        query, key, value = jnp.moveaxis(qkv.reshape(number, tokens, 3, self.heads, -1), 2, 0)
        scores = jnp.einsum("pthd,pshd->phts", query / math.sqrt(query.shape[-1]), key)
        mixed = jnp.einsum("phts,pshd->pthd", jax.nn.softmax(scores, axis=-1), value)
        x = x + _linear(mixed.reshape(x.shape), block["out"])
        hidden = _linear(_norm(x, block["norm2"], self.norm_eps), block["fc1"])
        return x + _linear(jax.nn.gelu(hidden, approximate=False), block["fc2"])

    @classmethod
    def from_files(
        cls,
        config: Mapping[str, Any] | None,
        state: Mapping[str, np.ndarray],
        name: str,
        given: Mapping[str, Any],
    ) -> "VitSpec":
        """See `NetworkSpec`; of what is given it takes `heads`, `norm_eps` and `image_size`."""
        return cls.from_json(vit_files.architecture(config, state, name, given))

    def expected(self, options: ReadOptions) -> str:
        height, width, channels = self.image_shape
        return (
            f"a vision transformer of {self.depth} blocks and {self.width} values a token, on "
            f"{height}×{width} images of {channels} channels, with {self.num_classes} classes"
        )

    def read(
        self,
        state: Mapping[str, np.ndarray],
        config: Mapping[str, Any] | None,
        name: str,
        options: ReadOptions,
    ) -> VitWeights:
        """See `NetworkSpec`; names as Hugging Face, torchvision or timm give them."""
        check_finite(name, state)
        vit_files.check_config(config, dataclasses.asdict(self), name)
        found = vit_files.weights(state, self.depth, name)
        for (path, leaf), wanted in zip(
            jax.tree.leaves_with_path(found), jax.tree.leaves(self.abstract()), strict=True
        ):
            if leaf.shape != wanted.shape:
                where = jax.tree_util.keystr(path, simple=True, separator=".")
                raise BadNetworkError(
                    name, f"{where} has shape {leaf.shape}, this zoo's networks {wanted.shape}"
                )
        return found

    def is_stacked(self, networks: Any) -> bool:
        return isinstance(networks, Mapping) and "blocks" in networks


def _linear(x: Float[Array, "*X I"], layer: Mapping[str, Array]) -> Float[Array, "*X O"]:
    y = jnp.einsum("...i,oi->...o", x, layer["weight"])
    return y + layer["bias"].reshape(*[1] * (y.ndim - 1), -1)


def _norm(x: Float[Array, "*X D"], layer: Mapping[str, Array], eps: float) -> Float[Array, "*X D"]:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    lead = [1] * (x.ndim - 1)
    scale, bias = (layer[name].reshape(*lead, -1) for name in ("weight", "bias"))
    return centred * jax.lax.rsqrt(variance + eps) * scale + bias
