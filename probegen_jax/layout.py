"""In which order networks are shown, and where they lie so that none ever has to move.

A batch has B *slots*. Each training network belongs to one slot for good, dealt out at random but
always in the same way; an epoch shows the networks of every slot in a fresh random order, step t
taking the t-th of each. So every network is shown once an epoch, a batch is spread over the whole
zoo, and whoever holds a slot's networks can fill that slot by itself. D devices hold B/D slots
each: batches are the same for every D, and no network is ever sent from one device to another.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from probegen_jax.zoo.zoo import SPLITS


@dataclasses.dataclass(frozen=True)
class Layout:
    """The place of every network of a zoo: slots × places.

    Attributes:
      rows_BxP: row of the zoo at each place of each slot, -1 where none is. Places are those of
        the training split, then of validation, then of test.
      steps: by split, how many places it has: the batches that show all of it once.
    """

    rows_BxP: Int[np.ndarray, "B P"]
    steps: Mapping[str, int]

    def places(self, split: str) -> Int[np.ndarray, "B T"]:
        """A split's place of each slot at each step, in the order of `rows`; -1 where none is."""
        span = self._span(split)
        places_T = np.arange(span.start, span.stop, dtype=np.int32)
        return np.where(self.rows(split) >= 0, places_T[None], np.int32(-1))

    def rows(self, split: str) -> Int[np.ndarray, "B T"]:
        """The zoo's row at each of `places`; -1 where none is."""
        return self.rows_BxP[:, self._span(split)]

    def _span(self, split: str) -> slice:
        names = list(self.steps)
        first = sum(self.steps[name] for name in names[: names.index(split)])
        return slice(first, first + self.steps[split])


def lay_out(splits: Mapping[str, Int[np.ndarray, " n"]], batch_size: int) -> Layout:
    """Deals a zoo's networks to the slots of a batch.

    Validation and test networks are dealt in their order, so that step t of either is its t-th
    batch.

    Args:
      splits: rows of "train", "val" and "test".
      batch_size: B.
    """
    # RandomState's stream is frozen, and this order must never change.
    train = np.random.RandomState(0).permutation(splits["train"])
    blocks, steps = [], {}
    for split in SPLITS:
        rows_N = train if split == "train" else splits[split]
        padded = np.pad(rows_N, (0, -len(rows_N) % batch_size), constant_values=-1)
        blocks.append(padded.reshape(-1, batch_size).T)
        steps[split] = blocks[-1].shape[1]
    return Layout(np.concatenate(blocks, axis=1).astype(np.int32), steps)


def epoch_places(
    key: Key[Array, ""], epoch: Int[Array, ""], places_BxT: Int[Array, "B T"]
) -> Int[Array, "T B"]:
    """The batches of an epoch: the training places of every slot, shuffled by (key, epoch) alone.

    That nothing else decides the order is what makes a resumed run see the same batches.

    Args:
      key: of one seed.
      epoch: counted from 0.
      places_BxT: `Layout.places("train")`; -1 where a slot has one network less.

    Returns:
      For each of the epoch's T steps a place in each slot; -1, in the last step only, for none.
    """
    bits_BxT = jax.random.bits(jax.random.fold_in(key, epoch), places_BxT.shape, jnp.uint32)
    # One bit less, so that what is missing comes last for sure; ties keep their order.
    ranks_BxT = jnp.where(places_BxT >= 0, bits_BxT >> 1, jnp.uint32(2**32 - 1))
    order_BxT = jnp.argsort(ranks_BxT, axis=1, stable=True)
    return jnp.take_along_axis(places_BxT, order_BxT, axis=1).T


def local_rows(places: Int[Array, "*steps B"], num_places: int) -> Int[Array, "*steps B"]:
    """Rows of an array that holds `num_places` networks of one slot, then of the next, and so on.

    Args:
      places: of the slots that the array holds; -1 for none, which stays -1.
      num_places: of each slot.
    """
    slots_B = jnp.arange(places.shape[-1], dtype=jnp.int32)
    slots = jnp.broadcast_to(slots_B, places.shape)
    return jnp.where(places >= 0, slots * num_places + places, -1)
