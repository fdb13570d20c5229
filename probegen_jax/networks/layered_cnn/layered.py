"""CNNs of the user's own: sequences of layers, all of one architecture or of several."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks.contract import check_at_least_one, usual_block_sizes
from probegen_jax.networks.images import ImageSpec
from probegen_jax.networks.layered_cnn import arrays, several
from probegen_jax.networks.layered_cnn.layer import shown
from probegen_jax.networks.layered_cnn.network import (
    Layers,
    Run,
    abstract,
    cost,
    out_shapes,
    run,
    volume,
)
from probegen_jax.networks.layered_cnn.said import Said
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.pixels import Pixels
from probegen_jax.networks.shapes import size_of
from probegen_jax.networks.shared_rows import Counts, SharedRows

# Above this, what the layers of one network put out for one image keeps an accelerator busy.
_SMALL = 2**16


@dataclasses.dataclass(frozen=True)
class LayeredCnnSpec(ImageSpec):
    """The static part of CNNs of one architecture or of several: everything but the weights.

    The weights of one network are a tuple with an entry for each layer that has arrays:
    `{"kernel": (k, k, in / groups, out), "bias": (out,)}` of a convolution, `{"kernel": (in, out),
    "bias": (out,)}` of a linear layer, both `(channels,)` of a norm. Those of a zoo of several
    architectures are `{"tables": ..., "which": (N,), "row": (N,)}`: the stacked networks of each
    architecture, and of each network of the zoo its architecture and its row there.

    Attributes:
      image_shape: of the images that networks read; no channels of a spec that only reads files.
      num_outputs: likewise.
      architectures: of the zoo; none yet of a spec that only reads files.
      said: what is known of files besides their arrays.
      block_size: of one architecture: networks of a batch that run side by side. None: one after
        another on a CPU, and elsewhere where each is work enough.
      platform: see `Options`.
      pixels: see `NetworkSpec`.
    """

    image_shape: tuple[int, int, int]
    num_outputs: int
    architectures: tuple[Layers, ...] = ()
    said: Said = dataclasses.field(default_factory=Said)
    block_size: int | None = None
    platform: str = dataclasses.field(default="cpu", repr=False)  # a zoo's cache knows its repr
    pixels: Pixels | None = dataclasses.field(default=None, repr=False, compare=False)

    vmap_seeds: ClassVar[bool] = False  # seeds side by side gain nothing
    config_beside: ClassVar[bool] = True

    def __post_init__(self):
        check_at_least_one(block_size=self.block_size)
        check_at_least_one(**{f"image_shape[{i}]": v for i, v in enumerate(self.image_shape[:2])})
        for layers in self.architectures:
            shape = out_shapes(layers, self.image_shape)[-1]
            if shape != (self.num_outputs,):
                raise UserError(
                    f"the network ends with {shown(shape)}, but {self.num_outputs} outputs are "
                    "expected; pooling or a linear layer may be missing at its end"
                )
            if size_of(abstract(layers)) >= 2**31:
                raise UserError("the network has 2³¹ weights or more; there must be fewer")

    @property
    def response_dim(self) -> int:
        return self.num_outputs

    @property
    def num_weights(self) -> int | None:
        shapes = self.abstract()
        return None if shapes is None else size_of(shapes)

    @property
    def alone(self) -> Layers | None:
        """The layers, where there is one architecture."""
        return self.architectures[0] if len(self.architectures) == 1 else None

    def abstract(self) -> Any:
        return None if self.alone is None else abstract(self.alone)

    def init(self, key: Key[Array, ""]) -> Any:
        """One network, of one architecture, in PyTorch's default initialisation: U(±1/√fan_in)."""
        leaves, tree = jax.tree.flatten(self.abstract())
        keys = jax.random.split(key, len(leaves))

        def draw(kernel: jax.ShapeDtypeStruct, shape: tuple[int, ...], key: jax.Array) -> jax.Array:
            bound = 1 / math.sqrt(math.prod(kernel.shape[:-1]))
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        kernels = [leaves[place - place % 2 + 1] for place in range(len(leaves))]
        drawn = [draw(*of) for of in zip(kernels, [x.shape for x in leaves], keys, strict=True)]
        return jax.tree.unflatten(tree, drawn)

    def apply(self, weights: Any, probes: Float[Array, "P H W C"]) -> Float[Array, "P R"]:
        """One network's outputs for every probe; differentiable in weights and probes.

        Probes are images, normalised as the network was trained on them.
        """
        self.check_images(probes)
        if self.alone is None:
            stacked = {**weights, **{k: weights[k][None] for k in ("which", "row")}}
            return self.respond(stacked, probes)[0]
        return run(self.alone, weights, probes)

    def respond(self, weights: Any, probes: Float[Array, "P H W C"]) -> Float[Array, "B P R"]:
        """Every network of a batch on every probe; meant to be differentiated in the probes."""
        self.check_images(probes)
        # A convolution inside a loop runs on a single thread of a CPU, a matmul on all.
        as_matmul = self.platform == "cpu"
        if self.alone is None:
            runs = tuple(Run(layers, as_matmul) for layers in self.architectures)
            return several.respond(runs, weights, probes)
        layers = self.alone
        if self.block_size is None and not as_matmul and volume(layers, self.image_shape) < _SMALL:
            return super().respond(weights, probes)
        as_matmul = as_matmul and self.block_size is None
        first = layers[0]
        # Patches for the first layer are made once for all networks.
        shared = as_matmul and first.kind == "conv" and first.groups == 1
        x = first.patches(probes) if shared else probes

        # Run once more on the way back, so that what one network computes is kept, not what all do.
        @jax.checkpoint
        def one(network: Any) -> jax.Array:
            return run(layers, network, x, as_matmul, shared)

        return jax.lax.map(one, weights, batch_size=self.block_size)

    def block_sizes(self, batch: int) -> Sequence[int | None]:
        if self.alone is None:
            return ()
        return usual_block_sizes(batch)

    def with_block_size(self, block_size: int | None) -> "LayeredCnnSpec":
        if block_size is not None and len(self.architectures) > 1:
            raise UserError(
                f"block_size is {block_size}, but networks of several architectures run one after "
                "another; leave it out"
            )
        return dataclasses.replace(self, block_size=block_size)

    def with_probe_shape(self, shape: tuple[int, int, int]) -> "LayeredCnnSpec":
        """The same layers on images of another size, where they can read such."""
        return dataclasses.replace(self, image_shape=shape)

    # Many networks.

    def take(self, weights: Any, rows: Any) -> Any:
        if self.alone is not None:
            return super().take(weights, rows)
        return {**weights, "which": weights["which"][rows], "row": weights["row"][rows]}

    def count(self, weights: Any) -> int:
        if self.alone is not None:
            return super().count(weights)
        if not self.is_stacked(weights):
            raise UserError(
                "stacked weights of several architectures are a dict of 'tables', 'which' and 'row'"
            )
        return super().count({"which": weights["which"], "row": weights["row"]})

    def costs(self, weights: Any) -> Int[np.ndarray, " N"] | None:
        """See `NetworkSpec`: multiplications for one probe."""
        if self.alone is not None:
            return None
        costs = np.array([cost(layers, self.image_shape) for layers in self.architectures])
        return costs[np.asarray(weights["which"])]

    def shared_rows(self, weights: Any) -> SharedRows | None:
        """See `NetworkSpec`: a row of the table of its architecture."""
        if self.alone is not None:
            return None
        return several.shared_rows(list(map(abstract, self.architectures)), weights)

    def shard(
        self,
        weights: Any,
        rows: Sequence[Int[np.ndarray, " n"]],
        lengths: Callable[[Counts], Counts] = lambda counts: counts,
    ) -> list[Any]:
        if self.alone is not None:
            return super().shard(weights, rows, lengths)
        return several.shard(weights, rows, lengths)

    # Single networks, from files or memory.

    def expected(self, options: ReadOptions) -> str:
        height, width, channels = self.image_shape
        which = f"{len(self.architectures)} known architectures"
        if self.alone is not None:
            keys = [layer.key for layer in self.alone if layer.key]
            which = f"the arrays {keys[0]}.weight to {keys[-1]}.bias"
        return (
            f"a CNN for images of {height}×{width} pixels and {channels} channels with "
            f"{self.num_outputs} outputs, of {which}"
        )

    def file_shapes(
        self, config: Mapping[str, Any] | None, name: str, options: ReadOptions
    ) -> dict[str, tuple[int, ...]] | None:
        """See `NetworkSpec`: of convolutions and linear layers, whose shapes may not be known."""
        layers = self._said(config, name).layers or self.alone
        if layers is None:
            return None
        return {f"{each.key}.weight": () for each in layers if each.kind in ("conv", "linear")}

    def read(
        self,
        state: Mapping[str, np.ndarray],
        config: Mapping[str, Any] | None,
        name: str,
        options: ReadOptions,
    ) -> tuple["LayeredCnnSpec", Any]:
        """See `NetworkSpec`; a config is what a JSON says of the network, see `said.parse`."""
        said = self._said(config, name)
        layers, weights = arrays.read(state, said, self.architectures, self.image_shape, name)
        channels = next(layer.inputs for layer in layers if layer.kind == "conv")
        shape = (*self.image_shape[:2], channels)
        outputs = self.num_outputs or out_shapes(layers, shape)[-1][-1]
        try:
            spec = dataclasses.replace(
                self, image_shape=shape, num_outputs=outputs, architectures=(layers,)
            )
        except UserError as error:
            raise BadNetworkError(name, str(error)) from error
        return spec, weights

    def _said(self, config: Mapping[str, Any] | None, name: str) -> Said:
        if config is None or not {"layers", "stride"} & config.keys():  # of something else
            return self.said
        try:
            said = Said.parse(config)
            if said.image_size not in (None, self.image_shape[:2]):
                raise UserError(
                    f"image_size is {said.image_size}, the zoo's {self.image_shape[:2]}"
                )
            stated = None not in (said.mean, said.std, self.pixels)
            if stated and Pixels(said.mean, said.std) != self.pixels:
                raise UserError(f"mean and std are {said.mean} and {said.std}, the zoo's are not")
        except UserError as error:
            raise BadNetworkError(name, f"its JSON: {error}") from error
        return said

    def stack(
        self, networks: Sequence[tuple["LayeredCnnSpec", Any]]
    ) -> tuple["LayeredCnnSpec", Any]:
        alike: dict[Layers, list[int]] = {}
        for n, (spec, _) in enumerate(networks):
            alike.setdefault(spec.architectures[0], []).append(n)
        tables = tuple(
            jax.tree.map(lambda *leaves: np.stack(leaves), *(networks[n][1] for n in rows))
            for rows in alike.values()
        )
        spec = dataclasses.replace(
            self,
            image_shape=networks[0][0].image_shape,
            num_outputs=networks[0][0].num_outputs,
            architectures=tuple(alike),
        )
        if len(tables) == 1:
            return spec, tables[0]
        spec = dataclasses.replace(spec, block_size=None)
        which, row = np.zeros((2, len(networks)), np.int32)
        for place, rows in enumerate(alike.values()):
            which[rows], row[rows] = place, np.arange(len(rows))
        return spec, {"tables": tables, "which": which, "row": row}

    def is_stacked(self, networks: Any) -> bool:
        """See `NetworkSpec`: single networks are dicts of arrays by name."""
        if isinstance(networks, Mapping):
            return networks.keys() == {"tables", "which", "row"}
        first = networks[0] if isinstance(networks, Sequence) and len(networks) else networks
        return not isinstance(first, Mapping) or "kernel" in first

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "LayeredCnnSpec":
        spec = super().from_json(values)
        if not spec.architectures:
            raise UserError("network has no 'architectures'")
        return spec
