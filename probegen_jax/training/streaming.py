"""A zoo that is read as its networks are needed, in chunks of a few steps, with Grain.

A chunk holds this host's networks of K steps, and trains like a small zoo that lies on the devices.
Which networks those are follows from the layout and the epoch's order alone: the same as when the
whole zoo lies there.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from probegen_jax.method.learning import TrainState
from probegen_jax.training.batch_order import Layout, epoch_places_of_seeds
from probegen_jax.training.mesh import BATCHES, DATA, SEEDS, join, my_parts, place
from probegen_jax.training.programs import Programs
from probegen_jax.training.resident import Stretch
from probegen_jax.zoo.zoo import Networks

T = TypeVar("T")

# A chunk of all hosts together; a few of them are on their way at any time.
CHUNK_BYTES = 64 * 2**20
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
_ON_DEVICE = 2  # chunks that wait there
# Steps whose networks are larger than this are read one at a time, while the one before is made.
_LARGE_BYTES, _READ_LARGE = 4 * CHUNK_BYTES, grain.ReadOptions(0, 0)


class Streamed:
    """Batches of a zoo that stays where it is stored."""

    def __init__(
        self,
        zoo: Networks,
        layout: Layout,
        mesh: Mesh,
        keys_S: Key[Array, " S"],
        network_bytes: int,
        chunk_bytes: int = CHUNK_BYTES,
    ):
        """Args:
        zoo: its `read` is called from several threads.
        layout: which networks are in which slot.
        mesh: of all devices.
        keys_S: of each seed, for the order of its batches.
        network_bytes: of one network; of networks that share arrays it follows from the zoo.
        chunk_bytes: of the networks of a chunk, about.
        """
        self.layout = layout
        self._zoo, self._mesh, self._keys_S = zoo, mesh, keys_S
        self._slots = np.split(np.arange(len(layout.rows_BxM)), mesh.shape[DATA])
        self._steps = layout.steps.get("train", 1)  # of an epoch
        self._shared = zoo.shared_rows()
        if self._shared is not None:
            self._lengths = functools.cache(self._lengths_of)
            all_slots = self._most_rows(1).sum(axis=0)
            network_bytes = max(1, int(all_slots @ self._shared.bytes_K) // len(layout.rows_BxM))
        at_once = chunk_bytes // (network_bytes * len(layout.rows_BxM))
        # The same for any number of devices, so that a position in the stream is.
        self._per_chunk = min(max(1, at_once // len(keys_S)), self._steps)
        self._per_sweep = max(1, at_once)
        step_bytes = network_bytes * len(layout.rows_BxM) * len(keys_S)
        large = step_bytes > _LARGE_BYTES
        self._reading, self._waiting = (_READ_LARGE, 0) if large else (_READ, _ON_DEVICE)
        self._chunks = -(-self._steps // self._per_chunk)  # of an epoch
        self._iterator: grain.DatasetIterator | None = None
        self._position: dict[str, Any] | None = None
        self._next = 0
        self._current: tuple[int, Stretch] | None = None

    def stretch(self, programs: Programs, epoch: int, step: int) -> Stretch:
        del programs  # only a zoo on the devices makes its batches there
        chunk = epoch * self._chunks + step // self._per_chunk
        if self._current is None or self._current[0] != chunk:
            if self._iterator is None:
                self._iterator = iter(self._dataset(_Epochs(self)))
            if self._next != chunk:
                grain.experimental.set_next_index(self._iterator, chunk)
            # Of where this chunk begins: whoever goes on in its middle needs it again.
            state = self._iterator.get_state()
            self._position = {"per_chunk": self._per_chunk, "chunk": chunk, "state": state}
            found = next(self._iterator)
            places_SxKxB = place(self._mesh, found["places_SxKxB"], BATCHES)
            stretch = Stretch(
                found["weights"], found["targets_N"], places_SxKxB, found["first"], found["steps"]
            )
            self._current = chunk, stretch
            self._next = chunk + 1
        return self._current[1]

    @property
    def position(self) -> dict[str, Any] | None:
        return self._position

    def restore(self, position: dict[str, Any] | None) -> None:
        if position is not None and position["per_chunk"] == self._per_chunk:
            self._iterator = iter(self._dataset(_Epochs(self)))
            self._iterator.set_state(position["state"])
            self._next = position["chunk"]

    def close(self) -> None:
        if self._iterator is not None:
            self._iterator.close()

    def outputs(
        self, programs: Programs, params_S: Any, fixed_S: Any, split: str
    ) -> list[Float[Array, "S T B O"]]:
        def predict(part: dict[str, Any]) -> Any:
            places_TxB = place(self._mesh, part["places_SxKxB"][0], P(None, DATA))
            weights, targets_N = part["weights"], part["targets_N"]
            return programs.predict(params_S, fixed_S, weights, targets_N, places_TxB)

        return self._sweep(self.layout.rows(split), predict)

    def responses(self, programs: Programs, state_S: TrainState) -> Float[Array, "S N P R"]:
        slots, places = self.layout.rows_BxM.shape

        def ask(part: dict[str, Any]) -> Any:
            asked = Layout(np.zeros((slots, part["steps"]), np.int32), {})
            return programs.responses(state_S, part["weights"], asked)

        found = self._sweep(self.layout.rows_BxM, ask)

        def assemble(found):
            # From chunk by chunk to slot by slot.
            shape = (len(self._keys_S), slots, -1, *found[0].shape[2:])
            whole = jnp.concatenate([each.reshape(shape) for each in found], axis=2)[:, :, :places]
            return whole.reshape(whole.shape[0], -1, *whole.shape[3:])

        return jax.jit(assemble, out_shardings=NamedSharding(self._mesh, P(SEEDS, DATA)))(found)

    def _sweep(
        self, rows_BxT: Int[np.ndarray, "B T"], use: Callable[[dict[str, Any]], T]
    ) -> list[T]:
        """What `use` makes of all networks at these rows, chunk by chunk."""
        results: list[T] = []
        iterator = iter(self._dataset(_Sweep(self, rows_BxT)))
        for part in iterator:
            results.append(use(part))
            if len(results) > self._waiting:  # no more networks on their way than these
                jax.block_until_ready(results[-1 - self._waiting])
        iterator.close()
        return results

    def _dataset(self, source: Any) -> grain.IterDataset:
        dataset = grain.MapDataset.source(source).to_iter_dataset(self._reading)
        dataset = dataset.map(self._to_devices)
        if not self._waiting:
            return dataset
        return grain.experimental.ThreadPrefetchIterDataset(
            dataset, prefetch_buffer_size=self._waiting
        )

    def _read(self, rows_BxM: Int[np.ndarray, "B M"]) -> dict[int, Any]:
        """Networks and targets of this host's parts of some places of each slot."""
        mine = my_parts(self._mesh)
        rows = [np.maximum(rows_BxM[self._slots[part]].ravel(), 0) for part in mine]
        weights = self._zoo.shard(rows, lambda _: self._lengths(rows_BxM.shape[1]))
        targets = map(self._zoo.targets_of, rows)
        return dict(zip(mine, zip(weights, targets, strict=True), strict=True))

    def _lengths_of(self, networks: int) -> Int[np.ndarray, " K"]:
        """Rows of shared arrays that any device could need for so many networks of each slot."""
        most_BxK = self._most_rows(networks)
        most_K = np.max([most_BxK[slots].sum(axis=0) for slots in self._slots], axis=0)
        return np.maximum(most_K, 1)

    def _most_rows(self, networks: int) -> Int[np.ndarray, "B K"]:
        """Rows of shared arrays that so many networks of each slot could need."""
        counts_BxMxK = self._shared.counts_NxK[np.maximum(self.layout.rows_BxM, 0)]
        return np.sort(counts_BxMxK, axis=1)[:, -networks:].sum(axis=1)

    def _to_devices(self, chunk: dict[str, Any]) -> dict[str, Any]:
        weights, targets_N = join(self._mesh, chunk.pop("parts"))
        return {"weights": weights, "targets_N": targets_N, **chunk}


class _Epochs:
    """Chunks of all epochs, by their number."""

    def __init__(self, streamed: Streamed):
        self._streamed = streamed
        self._order = functools.lru_cache(maxsize=2)(self._order_of)

    def __len__(self) -> int:
        return sys.maxsize  # as many epochs as anyone asks for

    def __getitem__(self, index: int) -> dict[str, Any]:
        streamed = self._streamed
        epoch, chunk = divmod(index, streamed._chunks)
        first = chunk * streamed._per_chunk
        places_SxKxB = self._order(epoch)[:, first : first + streamed._per_chunk]
        seeds, steps, slots = places_SxKxB.shape
        short = streamed._per_chunk - steps
        places_SxKxB = np.pad(places_SxKxB, ((0, 0), (0, short), (0, 0)), constant_values=-1)
        places_BxSK = np.moveaxis(places_SxKxB, 2, 0).reshape(slots, -1)
        rows_BxSK = np.take_along_axis(streamed.layout.rows_BxM, np.maximum(places_BxSK, 0), axis=1)
        # The chunk holds the networks of seed after seed, step after step.
        order = np.arange(seeds * streamed._per_chunk, dtype=np.int32)
        order = order.reshape(seeds, -1)[:, :, None]
        return {
            "parts": streamed._read(rows_BxSK),
            "places_SxKxB": np.where(places_SxKxB >= 0, order, np.int32(-1)),
            "first": first,
            "steps": steps,
        }

    def _order_of(self, epoch: int) -> Int[np.ndarray, "S T B"]:
        layout, keys_S = self._streamed.layout, self._streamed._keys_S
        places_BxT = layout.places("train")
        with jax.transfer_guard("allow"):  # training forbids what is not asked for
            found = _epoch_places(keys_S, np.int32(epoch), places_BxT, layout.ranks_BxT)
            return np.asarray(found)


class _Sweep:
    """Chunks of some rows, each network once; the last is filled up."""

    def __init__(self, streamed: Streamed, rows_BxT: Int[np.ndarray, "B T"]):
        size = min(streamed._per_sweep, rows_BxT.shape[1])
        short = -rows_BxT.shape[1] % size
        padded = np.pad(rows_BxT, ((0, 0), (0, short)), constant_values=-1)
        self._streamed = streamed
        self._chunks = np.split(padded, padded.shape[1] // size, axis=1)

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rows_BxK = self._chunks[index]
        places_KxB = np.arange(rows_BxK.shape[1], dtype=np.int32)[:, None]
        return {
            "parts": self._streamed._read(rows_BxK),
            "places_SxKxB": np.where(rows_BxK.T >= 0, places_KxB, np.int32(-1))[None],
            "first": 0,
            "steps": rows_BxK.shape[1],
        }


_epoch_places = jax.jit(epoch_places_of_seeds)
