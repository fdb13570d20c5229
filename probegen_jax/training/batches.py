"""Batches: from a zoo that lies on the devices, or one that is streamed to them."""

import dataclasses
import os
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key

from probegen_jax.errors import UserError
from probegen_jax.method.learning import TrainState
from probegen_jax.training.batch_order import Layout
from probegen_jax.training.job import processes
from probegen_jax.training.mesh import DATA, join, my_parts, place
from probegen_jax.training.programs import Programs
from probegen_jax.zoo.zoo import Networks


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Networks on the devices, and the batches of some steps of an epoch that are made of them.

    Attributes:
      weights: of the networks, laid out slot by slot.
      targets_N: theirs.
      places_SxKxB: the batches of K steps, as places of the slots.
      first: the step of the epoch that the first of them is for.
      steps: that there are batches for; K, or less where K is filled up.
    """

    weights: Any
    targets_N: jax.Array
    places_SxKxB: jax.Array
    first: int
    steps: int

    @property
    def stop(self) -> int:
        """One after the last step of the epoch that there are batches for."""
        return self.first + self.steps


@runtime_checkable
class Batches(Protocol):
    """Where the networks of each step come from."""

    layout: Layout

    def stretch(self, programs: Programs, epoch: int, step: int) -> Stretch:
        """Networks and batches for a step of an epoch, and some that follow it."""
        ...

    def outputs(
        self, programs: Programs, params_S: Any, fixed_S: Any, split: str
    ) -> list[Float[Array, "S T B O"]]:
        """Outputs of every seed's model for the networks of a split, in their order."""
        ...

    def responses(self, programs: Programs, state_S: TrainState) -> Float[Array, "S N P R"]:
        """Every seed's responses of all networks, laid out as `layout` says."""
        ...

    @property
    def position(self) -> Any:
        """What a checkpoint needs of it, in plain values."""
        ...

    def restore(self, position: Any) -> None:
        """Goes on from a `position`."""
        ...

    def close(self) -> None:
        """Ends what reads ahead."""
        ...


class Resident:
    """The whole zoo on the devices, each with the networks of its slots, which never move."""

    position = None  # batches follow from the step alone

    def __init__(self, layout: Layout, weights: Any, targets_N: jax.Array, keys_S: Any):
        """Args:
        layout: which networks are in which slot.
        weights: of all networks, or their responses, laid out and on the devices.
        targets_N: theirs.
        keys_S: of each seed, for the order of its batches.
        """
        self.layout = layout
        self._weights, self._targets_N, self._keys_S = weights, targets_N, keys_S
        self._epoch: int | None = None

    def stretch(self, programs: Programs, epoch: int, step: int) -> Stretch:
        """Networks and batches for all steps of an epoch."""
        if epoch != self._epoch:
            self._places = programs.epoch(self._keys_S, epoch, self.layout)
            self._epoch = epoch
        return Stretch(self._weights, self._targets_N, self._places, 0, self.layout.steps["train"])

    def outputs(
        self, programs: Programs, params_S: Any, fixed_S: Any, split: str
    ) -> list[Float[Array, "S T B O"]]:
        """Outputs of every seed's model for the networks of a split, in their order."""
        places_TxB = place(programs.mesh, self.layout.places(split).T, P(None, DATA))
        return [programs.predict(params_S, fixed_S, self._weights, self._targets_N, places_TxB)]

    def responses(self, programs: Programs, state_S: TrainState) -> Float[Array, "S N P R"]:
        """Every seed's responses of all networks."""
        return programs.responses(state_S, self._weights, self.layout)

    def restore(self, position: Any) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


def make_batches(
    zoo: Networks, layout: Layout, mesh: Mesh, keys_S: Key[Array, " S"], mode: str = "auto"
) -> Batches:
    """The batches of a zoo, from the devices if it fits.

    Args:
      zoo: with weights on the host, or stored.
      layout: which networks are in which slot.
      mesh: of all devices.
      keys_S: of each seed, for the order of its batches.
      mode: "resident", "stream", or "auto".

    Raises:
      UserError: the zoo cannot be streamed.
    """
    streams = zoo.spec.streams
    if mode == "stream" and not streams:
        raise UserError(
            f"the networks of {zoo.name} have different architectures, and only zoos of one "
            "architecture can be streamed; leave out --config.data.mode=stream"
        )
    one = zoo.read(np.zeros(1, np.int64)) if streams else None
    network_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(one))
    if mode == "auto":
        share = network_bytes * layout.rows_BxM.size // mesh.shape[DATA]
        fits = not streams or share <= _room(mesh)
        mode = "resident" if fits else "stream"
        if mesh.is_multi_process:
            mode = processes.from_first("data.mode", lambda: mode)
    if mode == "stream":
        from probegen_jax.training.streaming import Streamed

        return Streamed(zoo, layout, mesh, keys_S, network_bytes)
    weights = _load(zoo, layout, mesh)
    return Resident(layout, weights, place_targets(zoo, layout, mesh), keys_S)


def place_targets(zoo: Networks, layout: Layout, mesh: Mesh) -> jax.Array:
    """The targets of all networks, laid out and on the devices."""
    rows = _rows(layout, mesh)
    return join(mesh, {part: zoo.targets_of(rows_N) for part, rows_N in rows.items()})


def _load(zoo: Networks, layout: Layout, mesh: Mesh) -> Any:
    """This host's networks, on its devices."""
    rows = _rows(layout, mesh)
    over_hosts = processes.most if mesh.is_multi_process else np.asarray
    parts = zoo.shard(list(rows.values()), over_hosts)
    return join(mesh, dict(zip(rows, parts, strict=True)))


def _rows(layout: Layout, mesh: Mesh) -> dict[int, np.ndarray]:
    """Rows of the zoo that this host's devices hold; any where there is none."""
    blocks = np.split(np.maximum(layout.rows_BxM, 0), mesh.shape[DATA])
    return {part: blocks[part].ravel() for part in my_parts(mesh)}


def _room(mesh: Mesh) -> int:
    """Bytes of a device that networks may take: half of what it has, the rest is for the steps."""
    device = mesh.local_devices[0]
    stats = device.memory_stats()
    if stats is not None:
        return int(stats["bytes_limit"]) // 2
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return memory // 2 // len(mesh.local_devices)
