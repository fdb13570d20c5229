"""The order in which networks are shown, and their places, from which they never move.

A batch has B *slots*. Each training network belongs to one slot, dealt out at random but
always in the same way; an epoch shows the networks of every slot in a fresh random order, step t
taking the t-th of each. So every network is shown once an epoch, a batch is spread over the whole
zoo, and a device that holds a slot's networks can fill the slot by itself. D devices hold B/D slots
each: batches are the same for every D, and no network is ever sent from one device to another.

Where networks differ in cost, a step takes as long as the device with the most expensive networks
needs: on the Wild Park with 8 devices, half as long again as the mean. Networks may not move, so
the dealing and the order within slots have to balance this. Networks of about the same cost
are dealt to all slots at once, so that slots cost the same on the whole. A step asks every slot for
a network of a certain rank by cost, the ranks of eight neighbouring slots being spread evenly over
cheap and expensive, and the next eight slots are asked for the same ranks. So devices get similar
sums, and a batch is still a sample of the whole zoo. Which steps ask for which ranks, and which of
the eight slots for which, is drawn again in each epoch, and ranks are blurred, so that other
networks meet.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, Real

from probegen_jax.zoo.zoo import SPLITS

# How far apart the ranks are that neighbouring slots ask for, in eighths of all ranks. Bits are
# reversed, so that also the 2 or 4 slots that a device may hold ask evenly. With more parts than 8,
# only few devices get the same sums; with fewer, batches differ more in cost than by chance.
_PARTS = np.array([0, 4, 2, 6, 1, 5, 3, 7], np.int32)

# A rank is blurred by up to an eighth of all ranks, and by two where there are few: else the same
# networks would meet again and again. Wider, and devices' sums differ more. It is all done in
# integers, so that no rounding can make orders differ between machines; a rank is so many units.
_BLUR = 8
_LEAST_BLUR = 2
_UNITS = 256


@dataclasses.dataclass(frozen=True)
class Layout:
    """The place of every network of a zoo: slots × places.

    Attributes:
      rows_BxM: row of the zoo at each place of each slot, -1 where none is. Places are those of
        the training split, then of validation, then of test.
      steps: by split, how many places it has: the batches that show all of it once.
      ranks_BxT: of each training place, how many networks of its slot cost less, ties in the order
        of places; None where all networks cost the same.
    """

    rows_BxM: Int[np.ndarray, "B M"]
    steps: Mapping[str, int]
    ranks_BxT: Int[np.ndarray, "B T"] | None = None

    def places(self, split: str) -> Int[np.ndarray, "B T"]:
        """A split's place of each slot at each step, in the order of `rows`; -1 where none is."""
        span = self._span(split)
        places_T = np.arange(span.start, span.stop, dtype=np.int32)
        return np.where(self.rows(split) >= 0, places_T[None], np.int32(-1))

    def rows(self, split: str) -> Int[np.ndarray, "B T"]:
        """The zoo's row at each of `places`; -1 where none is."""
        return self.rows_BxM[:, self._span(split)]

    def _span(self, split: str) -> slice:
        names = list(self.steps)
        first = sum(self.steps[name] for name in names[: names.index(split)])
        return slice(first, first + self.steps[split])


def lay_out(
    splits: Mapping[str, Int[np.ndarray, " n"]],
    batch_size: int,
    costs_N: Real[np.ndarray, " N"] | None = None,
) -> Layout:
    """Deals a zoo's networks to the slots of a batch.

    Validation and test networks are dealt in their order, so that step t of either is its t-th
    batch.

    Args:
      costs_N: of every network of the zoo, in any unit; None where all cost the same.
    """
    # RandomState's stream is frozen, and this order must never change.
    random = np.random.RandomState(0)
    train = random.permutation(splits["train"])
    even = costs_N is None or np.ptp(costs_N[train]) == 0
    rows_BxT = (
        _deal(train, batch_size) if even else _deal_by_cost(train, batch_size, costs_N, random)
    )
    others = [_deal(splits[split], batch_size) for split in SPLITS if split != "train"]
    blocks = [rows_BxT, *others]
    steps = {split: block.shape[1] for split, block in zip(SPLITS, blocks, strict=True)}
    rows_BxM = np.concatenate(blocks, axis=1).astype(np.int32)
    if even:
        return Layout(rows_BxM, steps)
    costs_BxT = np.where(rows_BxT >= 0, costs_N[rows_BxT], np.inf)
    order_BxT = np.argsort(costs_BxT, axis=1, kind="stable")
    return Layout(rows_BxM, steps, np.argsort(order_BxT, axis=1).astype(np.int32))


def in_order(rows_N: Int[np.ndarray, " N"], batch_size: int) -> Layout:
    """A layout for looking at some networks once, in their order: its only split is "rows"."""
    rows_BxM = _deal(rows_N, batch_size).astype(np.int32)
    return Layout(rows_BxM, {"rows": rows_BxM.shape[1]})


def _deal(rows_N: Int[np.ndarray, " N"], slots: int) -> Int[np.ndarray, "B T"]:
    """One network to each slot after the other."""
    padded = np.pad(rows_N, (0, -len(rows_N) % slots), constant_values=-1)
    return padded.reshape(-1, slots).T


def _deal_by_cost(
    rows_N: Int[np.ndarray, " N"],
    slots: int,
    costs_N: Real[np.ndarray, " M"],
    random: np.random.RandomState,
) -> Int[np.ndarray, "B T"]:
    """Networks of about the same cost to all slots at once, and neighbours by cost far apart."""
    dear_first = rows_N[np.argsort(-costs_N[rows_N], kind="stable")]
    rows_BxT = _deal(dear_first, slots)  # a last, incomplete round is of the cheapest
    # Halves, quarters and so on of the slots take turns: slots in the order of their bits reversed.
    bits = max(slots - 1, 1).bit_length()
    far = sorted(range(slots), key=lambda slot: f"{slot:0{bits}b}"[::-1])
    for place in range(rows_BxT.shape[1]):
        rows_BxT[np.roll(far, random.randint(slots)), place] = rows_BxT[:, place].copy()
    return rows_BxT


def epoch_places(
    key: Key[Array, ""],
    epoch: Int[Array, ""],
    places_BxT: Int[Array, "B T"],
    ranks_BxT: Int[Array, "B T"] | None = None,
) -> Int[Array, "T B"]:
    """The batches of an epoch: the training places of every slot, shuffled by (key, epoch) alone.

    That nothing else decides the order is what makes a resumed run see the same batches.

    Args:
      epoch: counted from 0.
      places_BxT: `Layout.places("train")`; -1 where a slot has one network less.

    Returns:
      For each of the epoch's T steps a place in each slot; -1, in the last step only, for none.
    """
    key = jax.random.fold_in(key, epoch)
    if ranks_BxT is not None:
        return _even_places(key, places_BxT, ranks_BxT)
    bits_BxT = jax.random.bits(key, places_BxT.shape, jnp.uint32)
    # One bit less, so that what is missing comes last for sure; ties keep their order.
    drawn_BxT = jnp.where(places_BxT >= 0, bits_BxT >> 1, jnp.uint32(2**32 - 1))
    order_BxT = jnp.argsort(drawn_BxT, axis=1, stable=True)
    return jnp.take_along_axis(places_BxT, order_BxT, axis=1).T


epoch_places_of_seeds = jax.vmap(epoch_places, in_axes=(0, None, None, None))


def _even_places(
    key: Key[Array, ""], places_BxT: Int[Array, "B T"], ranks_BxT: Int[Array, "B T"]
) -> Int[Array, "T B"]:
    """See `epoch_places`, where networks differ in cost."""
    slots, steps = places_BxT.shape
    key_steps, key_parts, key_blur = jax.random.split(key, 3)
    last = jnp.int32(2**31 - 1)

    # What each slot asks for at each step: ranks, counted in eighths.
    parts = len(_PARTS)
    ranks_T = jax.random.permutation(key_steps, jnp.arange(steps, dtype=jnp.int32))
    # Exclusive or: it leaves 8, 4 or 2 neighbours as far apart as they were.
    turns = jax.random.randint(key_parts, (-(-slots // parts), 1), 0, parts, jnp.int32)
    parts_B = (jnp.asarray(_PARTS)[None] ^ turns).reshape(-1)[:slots]
    asked_BxT = (parts * ranks_T[None] + steps * parts_B[:, None]) % (parts * steps)
    # A slot that has one network less asks for none in the last step.
    short_B = (places_BxT < 0).any(axis=1)
    is_last_T = jnp.arange(steps, dtype=jnp.int32) == steps - 1
    asked_BxT = jnp.where(short_B[:, None] & is_last_T[None], last, asked_BxT)

    blur = _UNITS * max(_LEAST_BLUR, -(-steps // _BLUR))
    noise_BxT = jax.random.randint(key_blur, places_BxT.shape, 0, blur, jnp.int32)
    blurred_BxT = jnp.where(places_BxT >= 0, _UNITS * ranks_BxT + noise_BxT, last)

    # The slot's n-th cheapest network, after the blur, goes to the step that asks for the n-th.
    cheapest_BxT = jnp.argsort(blurred_BxT, axis=1, stable=True)
    nth_BxT = jnp.argsort(jnp.argsort(asked_BxT, axis=1), axis=1)
    order_BxT = jnp.take_along_axis(cheapest_BxT, nth_BxT, axis=1)
    return jnp.take_along_axis(places_BxT, order_BxT, axis=1).T


def local_rows(places: Int[Array, "*steps B"], num_places: int) -> Int[Array, "*steps B"]:
    """Rows of an array that holds `num_places` networks of one slot, then of the next, and so on.

    Args:
      places: of the slots that the array holds; -1 for none, which stays -1.
    """
    slots_B = jnp.arange(places.shape[-1], dtype=jnp.int32)
    slots = jnp.broadcast_to(slots_B, places.shape)
    return jnp.where(places >= 0, slots * num_places + places, -1)
