"""Zoos whose networks have different architectures, as one spec and one pytree.

Layers of one kind lie stacked in a table; a network is a short program over the tables. Programs
are data: one compilation runs every network whose kinds of layers are known.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.cnn import layer_table, published
from probegen_jax.networks.cnn.cnn import CnnSpec, CnnWeights
from probegen_jax.networks.contract import check_at_least_one
from probegen_jax.networks.images import ImageSpec
from probegen_jax.networks.maps import MapsInOnePass, Reduce, description
from probegen_jax.networks.mixed_cnn import tables, weight_statistics
from probegen_jax.networks.mixed_cnn.kinds import Dtype, Kind, Shape
from probegen_jax.networks.mixed_cnn.on_accelerator import batch
from probegen_jax.networks.mixed_cnn.on_accelerator.uniform import Uniform
from probegen_jax.networks.mixed_cnn.on_cpu import convolution, tape
from probegen_jax.networks.mixed_cnn.on_cpu.interpreter import Interpreter
from probegen_jax.networks.options import Options, ReadOptions
from probegen_jax.networks.pixels import Pixels
from probegen_jax.networks.shared_rows import SharedRows
from probegen_jax.typed_json import typed

MixedWeights = dict[str, Any]
CPU_CHUNK = 16


@dataclasses.dataclass(frozen=True)
class MixedCnnSpec(MapsInOnePass, ImageSpec):
    """The static part of a zoo of different CNNs.

    The weights are `{"tables": ..., "programs": ...}`. A table holds `kernel` (rows, k, k, in, out)
    and `bias` (rows, out) of all layers of one kind. Programs have a leading network axis: `depth`,
    and for each layer `kind`, `row`, `activation` (place in `ACTIVATIONS`) and `residual`; the
    `head`, its kernel padded with zero rows to the widest layer.

    Attributes:
      kinds: kinds of layers, in the order of the tables.
      tape_size: pre-activations (floats per probe and network) that training may keep on average.
        Networks of a batch for which that is not enough are run once more on the way back.
      block_size: probes that run together; if None, 16 on a CPU, else all.
      platform: see `Options`.
      activations: those that networks of the zoo may have.
      pixels: see `NetworkSpec`.
    """

    kinds: tuple[Kind, ...]
    max_layers: int
    image_shape: Shape
    num_classes: int
    tape_size: int
    block_size: int | None = None
    dtype: Dtype = "float32"
    platform: str = dataclasses.field(default="cpu", repr=False)  # as in `CnnSpec`
    activations: tuple[str, ...] = dataclasses.field(default=tuple(ACTIVATIONS), repr=False)
    pixels: Pixels | None = dataclasses.field(default=None, repr=False, compare=False)

    vmap_seeds: ClassVar[bool] = False  # seeds side by side gain nothing
    needs_config: ClassVar[bool] = True
    num_statistics: ClassVar[int] = weight_statistics.NUMBER

    def __post_init__(self):
        check_at_least_one(num_classes=self.num_classes, block_size=self.block_size)
        check_at_least_one(**{f"image_shape[{i}]": v for i, v in enumerate(self.image_shape)})

    def take(self, weights: MixedWeights, rows: Any) -> MixedWeights:
        """The networks at `rows`: their programs, and the tables as they are."""
        programs = jax.tree.map(lambda leaf: leaf[rows], weights["programs"])
        return {"tables": weights["tables"], "programs": programs}

    def apply(self, weights: MixedWeights, probes: Float[Array, "P H W C"]) -> Float[Array, "P R"]:
        """One network (programs without a network axis) on every probe."""
        programs = jax.tree.map(lambda leaf: leaf[None], weights["programs"])
        return self.respond({"tables": weights["tables"], "programs": programs}, probes)[0]

    def _answers(
        self, reduce: Reduce | None, weights: MixedWeights, probes: jax.Array, queries: Any
    ) -> tuple[Float[Array, "B P R"], Float[Array, "B P L K"] | None]:
        """See `MapsInOnePass`; differentiable in probes and queries only."""
        padded = self._in_chunks(probes)
        if self.platform == "cpu":
            stored, (chunks, chunk) = tables.stored(self.image_shape), padded.shape[:2]
            interpreter = Interpreter(self.kinds, self.max_layers, stored, chunk, self.dtype)
            given = (weights, padded.reshape(chunks, -1), queries)
            responses, found = tape.respond(interpreter, self.tape_size, reduce, *given)
        else:
            responses, found = batch.respond(self._uniform, reduce, weights, padded, queries)

        def joined(each: jax.Array) -> jax.Array:
            each = each.reshape(each.shape[0], -1, *each.shape[3:])
            return each[:, : probes.shape[0]]

        if found is not None:
            found = joined(jnp.moveaxis(found, 2, 3))  # probes of a chunk before layers
        return joined(responses), found

    @property
    def _uniform(self) -> Uniform:
        one_width = self.platform == "tpu"
        return Uniform(self.kinds, self.max_layers, self.activations, one_width, self.dtype)

    def _in_chunks(self, probes: Float[Array, "P H W C"]) -> Float[Array, "chunks Q H W c"]:
        """Probes that run together, with zeros that fill up the last chunk and the channels."""
        self.check_images(probes)
        block_size = self.block_size
        if block_size is None:
            block_size = CPU_CHUNK if self.platform == "cpu" else probes.shape[0]
        chunks = -(-probes.shape[0] // block_size)
        chunk = -(-probes.shape[0] // chunks)  # evenly: 17 probes are 9 and 8, not 16 and 1
        stored = tables.stored(self.image_shape)
        padding = [(0, chunks * chunk - probes.shape[0]), *[(0, 0)] * 3]
        padding[3] = (0, stored[2] - self.image_shape[2])
        return jnp.pad(probes, padding).reshape(chunks, chunk, *stored)

    def describe_layers(
        self, weights: MixedWeights
    ) -> tuple[Float[Array, "B L 24"], Bool[Array, "B L"]]:
        programs = weights["programs"]
        depths, index = programs["depth"][:, None], jnp.arange(self.max_layers, dtype=jnp.int32)
        numbers = [(k.inputs[2], *k.outputs, k.kernel, k.stride) for k in self.kinds]
        of_kind = jnp.asarray(numbers, jnp.float32)[programs["kind"]]
        into, height, width, out, kernel, stride = jnp.moveaxis(of_kind, -1, 0)
        described = description(
            index[None],
            depths,
            (into, out),
            (height, width),
            kernel,
            stride,
            programs["activation"],
        )
        return described, index[None] < depths

    def flat(self, weights: MixedWeights) -> Float[Array, "B V"]:
        """See `NetworkSpec`."""
        raise UserError(
            "method is 'flat', which reads all weights in one row, but this zoo's networks have "
            "different architectures; use another method, such as statnn"
        )

    def statistics(self, weights: MixedWeights) -> Float[Array, "B F"]:
        """See `NetworkSpec`; over layers, so that there are as many for any architecture."""
        return weight_statistics.of_networks(self.kinds, self.image_shape[2], weights)

    def costs(self, weights: MixedWeights) -> Int[np.ndarray, " N"]:
        """Multiplications of each network's convolutions for one probe, forwards and back.

        Those that are really done, by tiles. What else a network does is little beside them.
        """
        costs = []
        for kind in self.kinds:
            kernel_shape = (kind.kernel, kind.kernel, kind.inputs[2], kind.outputs[2])
            size = kind.inputs[:2]
            costs.append(convolution.arithmetic(size, kernel_shape, kind.stride, kind.padding))
        programs = weights["programs"]
        costs_NxL = np.array(costs, np.int64)[np.asarray(programs["kind"])]
        return np.where(tables.in_use(programs), costs_NxL, 0).sum(axis=1)

    def census(self, known: MixedWeights) -> dict[str, dict[str, int]]:
        return tables.census(known["programs"])

    def shared_rows(self, weights: MixedWeights) -> SharedRows:
        """See `NetworkSpec`: rows of each kind's table, a layer each."""
        return tables.shared_rows(self.kinds, weights["programs"])

    def with_options(self, options: Options, weights: MixedWeights | None = None) -> "MixedCnnSpec":
        spec = super().with_options(dataclasses.replace(options, compute_dtype="float32"), weights)
        return dataclasses.replace(spec, dtype=options.compute_dtype)

    def count(self, weights: MixedWeights) -> int:
        """See `NetworkSpec`; of the programs, for tables are not stacked by network."""
        if not self.is_stacked(weights):
            raise UserError("stacked weights of mixed CNNs are a dict of 'tables' and 'programs'")
        return super().count(weights["programs"])

    def shard(
        self,
        weights: MixedWeights,
        rows: Sequence[Int[np.ndarray, " n"]],
        lengths: Callable[[np.ndarray], np.ndarray] = lambda counts: counts,
    ) -> list[Any]:
        """See `NetworkSpec`; each device gets of each table only what its networks use."""
        return tables.shard(weights, rows, lengths)

    def expected(self, options: ReadOptions) -> str:
        return (
            f"a CNN of the Wild Park's form for images of {self.image_shape[2]} channels and "
            f"{self.num_classes} classes, with its config"
        )

    def file_shapes(
        self, config: Mapping[str, Any] | None, name: str, options: ReadOptions
    ) -> dict[str, tuple[int, ...]]:
        return layer_table.file_shapes(config or {}, name)

    def read(
        self,
        state: Mapping[str, np.ndarray],
        config: Mapping[str, Any] | None,
        name: str,
        options: ReadOptions,
    ) -> tuple[CnnSpec, CnnWeights]:
        """See `NetworkSpec`; the config is as in the CNN Wild Park's checkpoints."""
        network = layer_table.from_torch(state, config or {}, name)
        *size, channels = self.image_shape
        if network.layers[0, 0] != channels:
            raise BadNetworkError(name, f"reads images of {network.layers[0, 0]} channels")
        if network.num_classes != self.num_classes:
            raise BadNetworkError(name, f"has {network.num_classes} classes")
        try:
            spec = published.wild_park(network.config(), options.fidelity, name, tuple(size))
        except UserError as error:
            fault = str(error).removeprefix(f"network {name}: ")  # which its row says anyway
            raise BadNetworkError(name, fault) from error
        return spec, network.arrays()

    def stack(
        self, networks: Sequence[tuple[CnnSpec, CnnWeights]]
    ) -> tuple["MixedCnnSpec", MixedWeights]:
        specs, weights = zip(*networks, strict=True)
        spec, stacked = build(specs, weights)
        spec = dataclasses.replace(spec, block_size=self.block_size, dtype=self.dtype)
        return spec.on_platform(self.platform), stacked

    def is_stacked(self, networks: Any) -> bool:
        return isinstance(networks, Mapping) and {"tables", "programs"} <= networks.keys()

    def to_json(self) -> dict[str, Any]:
        """What any network must share; kinds of layers follow from the networks at hand."""
        return {"image_shape": self.image_shape, "num_classes": self.num_classes}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "MixedCnnSpec":
        shared = typed(_Shared, values, "network")
        return cls((), 0, shared.image_shape, shared.num_classes, tape_size=0)


@dataclasses.dataclass(frozen=True)
class _Shared:
    image_shape: Shape
    num_classes: int


def build(
    specs: Sequence[CnnSpec], networks: Sequence[CnnWeights], names: Sequence[str] | None = None
) -> tuple[MixedCnnSpec, MixedWeights]:
    """A mixed zoo of networks that may all be different.

    Args:
      specs: of each network; they agree in image shape and number of classes.
      networks: weights of each, as `CnnSpec.apply` takes them.

    Raises:
      UserError: weights that disagree with their spec, or networks that cannot share a zoo.
    """
    names = names or [str(n) for n in range(len(specs))]
    mixed, _ = outline(specs, names)
    return mixed, tables.pack(mixed.kinds, mixed.max_layers, specs, networks, names)


def outline(specs: Sequence[CnnSpec], names: Sequence[str]) -> tuple[MixedCnnSpec, Any]:
    """The spec of a mixed zoo, and what can be known of its weights without the networks' arrays.

    As `build`; the weights are those that `costs` and `shared_rows` need.
    """
    if not specs:
        raise UserError("a zoo needs at least one network")
    for spec, name in zip(specs, names, strict=True):
        for what in ("image_shape", "num_classes"):
            own, shared = getattr(spec, what), getattr(specs[0], what)
            if own != shared:
                raise UserError(
                    f"network {name}: {what} is {own}, but the zoo's is {shared}; a zoo's networks "
                    "must agree in it"
                )
    kinds = tuple(sorted({kind for spec in specs for kind in tables.kinds_of(spec)}))
    volumes = [sum(math.prod(kind.outputs) for kind in tables.kinds_of(spec)) for spec in specs]
    mixed = MixedCnnSpec(
        kinds=kinds,
        max_layers=max(len(spec.layers) for spec in specs),
        image_shape=specs[0].image_shape,
        num_classes=specs[0].num_classes,
        # Batches differ from the zoo's mean; a batch of 32 seldom by more than a quarter.
        tape_size=min(max(volumes), math.ceil(1.25 * sum(volumes) / len(volumes))),
        activations=tables.activations_of(specs),
        pixels=specs[0].pixels,
    )
    return mixed, {"programs": tables.kinds_in_use(kinds, mixed.max_layers, specs)}
