"""Batches of a zoo that lies on the devices, and what any batches are."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

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
        """Stops reading ahead."""
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
        if epoch != self._epoch:
            self._places = programs.epoch(self._keys_S, epoch, self.layout)
            self._epoch = epoch
        return Stretch(self._weights, self._targets_N, self._places, 0, self.layout.steps["train"])

    def outputs(
        self, programs: Programs, params_S: Any, fixed_S: Any, split: str
    ) -> list[Float[Array, "S T B O"]]:
        places_TxB = place(programs.mesh, self.layout.places(split).T, P(None, DATA))
        return [programs.predict(params_S, fixed_S, self._weights, self._targets_N, places_TxB)]

    def responses(self, programs: Programs, state_S: TrainState) -> Float[Array, "S N P R"]:
        return programs.responses(state_S, self._weights, self.layout)

    def restore(self, position: Any) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


def place_targets(zoo: Networks, layout: Layout, mesh: Mesh) -> jax.Array:
    """The targets of all networks, laid out and on the devices."""
    rows = _rows(layout, mesh)
    return join(mesh, {part: zoo.targets_of(rows_N) for part, rows_N in rows.items()})


def load(zoo: Networks, layout: Layout, mesh: Mesh) -> Any:
    """This host's networks, on its devices."""
    rows = _rows(layout, mesh)
    parts = zoo.shard(list(rows.values()), processes.most if mesh.is_multi_process else np.asarray)
    return join(mesh, dict(zip(rows, parts, strict=True)))


def _rows(layout: Layout, mesh: Mesh) -> dict[int, np.ndarray]:
    """Rows of the zoo that this host's devices hold; an arbitrary row for an empty place."""
    blocks = np.split(np.maximum(layout.rows_BxM, 0), mesh.shape[DATA])
    return {part: blocks[part].ravel() for part in my_parts(mesh)}
