"""A zoo: many trained networks with a target each."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.shared_rows import Counts, SharedRows
from probegen_jax.zoo import describe

SPLITS = ("train", "val", "test")

# Networks of a zoo that stays on the disk, and their values, for statistics of their weights.
_MOST_READ, _MOST_VALUES = 4096, 2**28


@dataclasses.dataclass(frozen=True)
class Stored:
    """Weights that stay on the disk, for zoos that need not fit in memory.

    Attributes:
      read: the stacked weights of the networks in some rows, in NumPy arrays.
      known: what is in memory of all networks' weights: as much as the spec's `costs` and
        `shared_rows` look at.
      digest: of all networks' weights, where that is known.
    """

    read: Callable[[np.ndarray], Any]
    known: Any = None
    digest: str | None = None


@dataclasses.dataclass(frozen=True)
class Networks:
    """Stacked networks.

    Attributes:
      weights: the spec's weights with a leading network axis N on every leaf, or `Stored` ones.
    """

    name: str
    spec: NetworkSpec
    weights: Any

    def read(self, rows_N: np.ndarray) -> Any:
        """Stacked weights of some networks, in NumPy arrays."""
        if isinstance(self.weights, Stored):
            return self.weights.read(rows_N)
        return jax.tree.map(np.asarray, self.spec.take(self.weights, rows_N))

    def shard(self, rows: Sequence[np.ndarray], lengths: Callable[[Counts], Counts]) -> list[Any]:
        """The networks of each device, see `NetworkSpec.shard`."""
        if not isinstance(self.weights, Stored):
            return self.spec.shard(self.weights, rows, lengths)
        if self.shared_rows() is None:
            return [self.weights.read(each) for each in rows]
        # Each once, so that none takes rows of shared arrays twice.
        once, places = np.unique(np.concatenate(rows), return_inverse=True)
        ends = np.cumsum([len(each) for each in rows])
        return self.spec.shard(self.weights.read(once), np.split(places, ends[:-1]), lengths)

    def costs(self) -> np.ndarray | None:
        """How much work it is to probe each network (N); None where it is the same for all."""
        return self.spec.costs(self._known)

    def shared_rows(self) -> SharedRows | None:
        """See `NetworkSpec.shared_rows`."""
        return self.spec.shared_rows(self._known)

    @property
    def _known(self) -> Any:
        return self.weights.known if isinstance(self.weights, Stored) else self.weights

    def targets_of(self, rows_N: np.ndarray) -> np.ndarray:
        """What is to be predicted of some networks; 0 where that is not known."""
        return np.zeros(len(rows_N), np.float32)


@dataclasses.dataclass(frozen=True)
class Zoo(Networks):
    """Stacked networks, what is to be predicted of each, and which are for what.

    Attributes:
      targets_N: class index (int32) or value (float32) of each network; where a network may have
        several classes, (N, C) of 0 or 1 (int8).
      splits: rows of "train", "val" and "test"; no row is in two.
      task: what kind of target it is.
      num_outputs: classes, or values per target.
      runs_N: for zoos with several checkpoints of one training run, the run of each network.
      images_N: where an image has several networks, the image of each; they are in one split.
      image_shape: for INR zoos, height and width of the images that the networks were fitted to,
        or the sides of signals or volumes.
      class_names: of each class; None where classes have no names but their numbers.
      psnr_N: how well each network draws its image, in dB for a peak value of 1; None if unknown.
    """

    targets_N: np.ndarray
    splits: Mapping[str, np.ndarray]
    task: Literal["classification", "multilabel", "regression"]
    num_outputs: int
    runs_N: np.ndarray | None = None
    images_N: np.ndarray | None = None
    image_shape: tuple[int, ...] | None = None
    class_names: tuple[str, ...] | None = None
    psnr_N: np.ndarray | None = None

    def __post_init__(self):
        seen = np.zeros(len(self.targets_N), bool)
        for split in SPLITS:
            rows = self.splits[split]
            if not len(rows):
                raise UserError(
                    f"zoo {self.name}: split {split!r} is empty; every split needs networks"
                )
            if seen[rows].any():
                both = rows[seen[rows]][0]
                raise UserError(
                    f"zoo {self.name}: network {both} is in {split!r} and in another split; "
                    "list each network once"
                )
            seen[rows] = True

    def __len__(self) -> int:
        return len(self.targets_N)

    def targets_of(self, rows_N: np.ndarray) -> np.ndarray:
        return self.targets_N[rows_N]

    @property
    def called(self) -> Sequence[str]:
        """What each class is called: its name, or its number."""
        return self.class_names or [str(label) for label in range(self.num_outputs)]

    def describe(self) -> str:
        """Counts, sizes, a histogram of the targets and statistics of the weights, as text."""
        number = self.spec.num_weights
        size = "" if number is None else f" of {number:,} weights"
        classes, targets = f" into {self.num_outputs} classes", []
        if self.task == "classification":
            counts = np.bincount(self.targets_N, minlength=self.num_outputs)
            targets = describe.class_counts(counts, self.called)
        elif self.task == "multilabel":
            number = self.targets_N.sum(axis=1, dtype=np.int64)
            classes = f" of {self.num_outputs} classes, {number.mean():.1f} to a network"
            targets = describe.class_counts(self.targets_N.sum(axis=0, dtype=np.int64), self.called)
        else:
            classes, targets = "", describe.histogram(self.targets_N)
        lines = [
            f"{self.name}: {len(self):,} networks{size}, {self.task}{classes}",
            "  " + ", ".join(f"{split} {len(self.splits[split]):,}" for split in SPLITS),
        ]
        if self.runs_N is not None:
            lines.append(f"  from {len(np.unique(self.runs_N)):,} training runs")
        if self.images_N is not None:
            lines.append(f"  of {len(np.unique(self.images_N)):,} images, or their views")
        for name, counts in self.spec.census(self._known).items():
            lines.append(f"  {name}: {describe.in_a_row(counts)}")
        if self.psnr_N is not None:
            targets += ["", *describe.psnr(self.psnr_N, "PSNR in dB")]
        read = self.weights
        if isinstance(read, Stored):
            most = min(_MOST_READ, max(1, _MOST_VALUES // (number or 1)))
            read = self.read(np.arange(len(self))[:: -(-len(self) // most)])
        weights = describe.weight_statistics(read, describe.published(self.name, read))
        return "\n".join([*lines, "", "targets", *targets, "", *weights])

    def with_fewer_to_train_on(self, number: int | None) -> "Zoo":
        """The same zoo with only `number` training networks, drawn once and for all; None: all."""
        rows = self.splits["train"]
        if number is None or number >= len(rows):
            return self
        if number < 1:
            raise UserError(f"max_train_networks is {number}; it must be at least 1")
        drawn = np.random.default_rng(0).choice(rows, number, replace=False)
        return dataclasses.replace(self, splits={**self.splits, "train": np.sort(drawn)})
