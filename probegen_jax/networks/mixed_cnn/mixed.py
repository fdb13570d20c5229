"""Zoos whose networks have different architectures, as one spec and one pytree.

Layers of one kind lie stacked in a table; a network is a short program over the tables. Programs
are data: one compilation of `MixedCnnSpec.respond` runs every network whose kinds of layers are
known.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from probegen_jax.errors import UserError
from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.cnn.cnn import CnnSpec, CnnWeights, check_images
from probegen_jax.networks.cnn.layer import PER_NETWORK
from probegen_jax.networks.mixed_cnn.on_cpu import convolution, tape
from probegen_jax.networks.mixed_cnn.on_cpu.convolution import Dtype
from probegen_jax.networks.mixed_cnn.on_cpu.interpreter import Interpreter, Kind, Shape

MixedWeights = dict[str, Any]
CPU_CHUNK = 16


@dataclasses.dataclass(frozen=True)
class MixedCnnSpec:
    """The static part of a zoo of different CNNs.

    The weights are `{"tables": ..., "programs": ...}`. A table holds `kernel` (rows, k, k, in, out)
    and `bias` (rows, out) of all layers of one kind. Programs have a leading network axis: `depth`,
    and for each layer `kind`, `row`, `activation` (place in `ACTIVATIONS`) and `residual`; the
    `head`, its kernel padded with zero rows to the widest layer.

    Attributes:
      kinds: kinds of layers, in the order of the tables.
      max_layers: most layers of a network.
      image_shape: height, width and channels of a probe.
      num_classes: outputs of every head, R.
      tape_size: pre-activations (floats per probe and network) that training may keep on average.
        Networks of a batch for which that is not enough are run once more on the way back.
      block_size: probes that run together; if None, 16 on a CPU, else all.
      dtype: what convolutions multiply in, "float32" or "bfloat16"; sums are float32.
    """

    kinds: tuple[Kind, ...]
    max_layers: int
    image_shape: Shape
    num_classes: int
    tape_size: int
    block_size: int | None = None
    dtype: Dtype = "float32"

    @property
    def probe_shape(self) -> Shape:
        """Shape of one probe: (H, W, C)."""
        return self.image_shape

    @property
    def response_dim(self) -> int:
        """Values in one response, R: the logits."""
        return self.num_classes

    @property
    def vmap_seeds(self) -> bool:
        """Whether several seeds should run as one more vmap axis: no, one after another."""
        return False

    def take(self, weights: MixedWeights, rows: jax.Array) -> MixedWeights:
        """The networks at `rows`: their programs, and the tables as they are."""
        programs = jax.tree.map(lambda leaf: leaf[rows], weights["programs"])
        return {"tables": weights["tables"], "programs": programs}

    def apply(self, weights: MixedWeights, probes: Float[Array, "P H W C"]) -> Float[Array, "P R"]:
        """One network (programs without a network axis) on every probe."""
        programs = jax.tree.map(lambda leaf: leaf[None], weights["programs"])
        return self.respond({"tables": weights["tables"], "programs": programs}, probes)[0]

    def respond(
        self, weights: MixedWeights, probes: Float[Array, "P H W C"]
    ) -> Float[Array, "B P R"]:
        """Every network of a batch on every probe; differentiable in the probes only.

        Args:
          weights: as from `take`.
          probes: images, normalised as the networks were trained on them.
        """
        check_images(probes, self.image_shape)
        block_size = self.block_size
        if block_size is None:
            block_size = CPU_CHUNK if jax.default_backend() == "cpu" else probes.shape[0]
        chunks = -(-probes.shape[0] // block_size)
        chunk = -(-probes.shape[0] // chunks)  # evenly: 17 probes are 9 and 8, not 16 and 1
        stored = _stored(self.image_shape)
        interpreter = Interpreter(self.kinds, self.max_layers, stored, chunk, self.dtype)
        padding = [(0, chunks * chunk - probes.shape[0]), *[(0, 0)] * 3]
        padding[3] = (0, stored[2] - self.image_shape[2])
        padded = jnp.pad(probes, padding)
        responses_BxCxKxR = tape.respond(
            interpreter, self.tape_size, weights, padded.reshape(chunks, -1)
        )
        responses = responses_BxCxKxR.reshape(responses_BxCxKxR.shape[0], chunks * chunk, -1)
        return responses[:, : probes.shape[0]]

    def costs(self, weights: MixedWeights) -> Int[np.ndarray, " N"]:
        """Multiplications of each network's convolutions for one probe, forwards and back.

        Those that are really done, by tiles. What else a network does is little beside them.

        Args:
          weights: of networks, on the host.
        """
        costs_K = [
            convolution.arithmetic(
                kind.inputs[:2],
                kind.kernel,
                kind.inputs[2],
                kind.outputs[2],
                kind.stride,
                kind.padding,
            )[0]
            for kind in self.kinds
        ]
        kinds, depths = (np.asarray(weights["programs"][name]) for name in ("kind", "depth"))
        there = np.arange(kinds.shape[1]) < depths[:, None]
        return np.where(there, np.array(costs_K, np.int64)[kinds], 0).sum(axis=1)

    def with_kinds(self, specs: Sequence[CnnSpec]) -> "MixedCnnSpec":
        """This spec, able to run the architectures `specs` too.

        It equals the old one if all kinds of layers are known, so that nothing is compiled again;
        new kinds come last, so that programs made for the old spec still hold.
        """
        new = {kind for spec in specs for kind in kinds_of(spec)} - set(self.kinds)
        return dataclasses.replace(
            self,
            kinds=(*self.kinds, *sorted(new)),
            max_layers=max(self.max_layers, *(len(spec.layers) for spec in specs)),
        )

    def pack(
        self,
        specs: Sequence[CnnSpec],
        networks: Sequence[CnnWeights],
        names: Sequence[str] | None = None,
        round_up: bool = False,
    ) -> MixedWeights:
        """Networks as tables and programs for this spec, in NumPy arrays.

        Args:
          specs: of each network, of known kinds only (else see `with_kinds`).
          networks: weights of each, as `CnnSpec.apply` takes them.
          names: what errors call them; their places by default.
          round_up: whether to pad tables to powers of two, so that the next few networks to
            predict for probably find the same shapes, and thus a compiled program.

        Raises:
          UserError: a network that disagrees with its spec or does not belong in this zoo.
        """
        return pack(self, specs, networks, names, round_up)


def build(
    specs: Sequence[CnnSpec], networks: Sequence[CnnWeights], names: Sequence[str] | None = None
) -> tuple[MixedCnnSpec, MixedWeights]:
    """A mixed zoo of networks that may all be different.

    Args:
      specs: of each network; they agree in image shape and number of classes.
      networks: weights of each, as `CnnSpec.apply` takes them.
      names: what errors call them; their places by default.

    Returns:
      The zoo's spec, and its weights as NumPy arrays.

    Raises:
      UserError: weights that disagree with their spec, or networks that cannot share a zoo.
    """
    names = _names(specs, names)
    if not specs:
        raise UserError("a zoo needs at least one network")
    kinds = tuple(sorted({kind for spec in specs for kind in kinds_of(spec)}))
    volumes = [sum(math.prod(kind.outputs) for kind in kinds_of(spec)) for spec in specs]
    mixed = MixedCnnSpec(
        kinds=kinds,
        max_layers=max(len(spec.layers) for spec in specs),
        image_shape=specs[0].image_shape,
        num_classes=specs[0].num_classes,
        # Batches differ from the zoo's mean; a batch of 32 seldom by more than a quarter.
        tape_size=min(max(volumes), math.ceil(1.25 * sum(volumes) / len(volumes))),
    )
    return mixed, pack(mixed, specs, networks, names)


def pack(
    mixed: MixedCnnSpec,
    specs: Sequence[CnnSpec],
    networks: Sequence[CnnWeights],
    names: Sequence[str] | None = None,
    round_up: bool = False,
) -> MixedWeights:
    """See `MixedCnnSpec.pack`."""
    names = _names(specs, names)
    places = {kind: place for place, kind in enumerate(mixed.kinds)}
    widest = max(kind.outputs[2] for kind in mixed.kinds)
    layers: list[list[dict[str, np.ndarray]]] = [[] for _ in mixed.kinds]
    shape = (len(specs), mixed.max_layers)
    programs = {
        "depth": np.zeros(len(specs), np.int32),
        "kind": np.zeros(shape, np.int32),
        "row": np.zeros(shape, np.int32),
        "activation": np.zeros(shape, np.int32),
        "residual": np.full(shape, -1, np.int32),
        "head": {
            "kernel": np.zeros((len(specs), widest, mixed.num_classes), np.float32),
            "bias": np.zeros((len(specs), mixed.num_classes), np.float32),
        },
    }
    activations = list(ACTIVATIONS)
    for n, (spec, weights, name) in enumerate(zip(specs, networks, names, strict=True)):
        _check_member(mixed, spec, weights, name)
        programs["depth"][n] = len(spec.layers)
        for i, (layer, kind) in enumerate(zip(spec.layers, kinds_of(spec), strict=True)):
            rows = layers[places[kind]]
            chosen = layer.activation
            if chosen == PER_NETWORK:
                chosen = spec.activations[int(weights["activation"])]
            programs["kind"][n, i] = places[kind]
            programs["row"][n, i] = len(rows)
            programs["activation"][n, i] = activations.index(chosen)
            programs["residual"][n, i] = layer.residual
            rows.append(weights["layers"][i])
        channels = spec.layers[-1].out_channels
        programs["head"]["kernel"][n, :channels] = weights["head"]["kernel"]
        programs["head"]["bias"][n] = weights["head"]["bias"]
    tables = tuple(
        _table(kind, rows, round_up) for kind, rows in zip(mixed.kinds, layers, strict=True)
    )
    return {"tables": tables, "programs": programs}


def kinds_of(spec: CnnSpec) -> list[Kind]:
    """The kind of each layer of a network."""
    kinds, inputs = [], _stored(spec.image_shape)
    for layer, size in zip(spec.layers, spec.sizes, strict=True):
        outputs = (*size, layer.out_channels)
        kinds.append(Kind(layer.kernel, layer.stride, layer.padding, inputs, outputs))
        inputs = outputs
    return kinds


def _stored(shape: Shape) -> Shape:
    """The shape that images of `shape` are kept in: three channels get a fourth, of zeros.

    Measured: a convolution of four channels takes two thirds of the time of one of three.
    """
    return (*shape[:2], 4 if shape[2] == 3 else shape[2])


def _table(kind: Kind, rows: list[dict[str, np.ndarray]], round_up: bool) -> dict[str, np.ndarray]:
    """All layers of a kind; at least one row, so that there is something to compile for."""
    count = max(1, len(rows))
    if round_up:
        count = 1 << (count - 1).bit_length()
    channels = (kind.inputs[2], kind.outputs[2])
    table = {
        "kernel": np.zeros((count, kind.kernel, kind.kernel, *channels), np.float32),
        "bias": np.zeros((count, channels[1]), np.float32),
    }
    for place, row in enumerate(rows):
        table["kernel"][place, :, :, : row["kernel"].shape[2]] = row["kernel"]
        table["bias"][place] = row["bias"]
    return table


def _names(specs: Sequence[CnnSpec], names: Sequence[str] | None) -> Sequence[str]:
    return [str(place) for place in range(len(specs))] if names is None else names


def _check_member(mixed: MixedCnnSpec, spec: CnnSpec, weights: CnnWeights, name: str) -> None:
    """Raises a `UserError` unless a network is as its spec says and fits the zoo."""
    spec.check(weights, name)
    for what in ("image_shape", "num_classes"):
        if getattr(spec, what) != getattr(mixed, what):
            raise UserError(
                f"network {name}: {what} is {getattr(spec, what)}, but the zoo's is "
                f"{getattr(mixed, what)}; a zoo's networks must agree in it"
            )
    if len(spec.layers) > mixed.max_layers:
        raise UserError(
            f"network {name}: has {len(spec.layers)} layers, this zoo at most {mixed.max_layers}; "
            "widen the spec with `with_kinds`"
        )
    for index, kind in enumerate(kinds_of(spec)):
        if kind not in mixed.kinds:
            raise UserError(
                f"network {name}: layer {index} is of a kind that this zoo has no table for: "
                f"{kind}; widen the spec with `with_kinds`"
            )
