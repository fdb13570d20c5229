"""Trains the networks of a planned zoo: in parts of one architecture, on all cores or devices."""

import concurrent.futures
import os
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from probegen_jax.errors import UserError
from probegen_jax.factory.cnn.fit import Trainer
from probegen_jax.factory.cnn.planned import Planned, plan
from probegen_jax.factory.cnn.search_space import Space
from probegen_jax.factory.images.files import Part
from probegen_jax.factory.images.sources import ImageSet, scaled
from probegen_jax.networks.cnn.cnn import CnnSpec

# Networks that are trained before they are written: seconds' worth on a CPU, a full GPU.
_PART, _GPU_PART = 16, 512
# Sets of images are drawn by these, so that a network's own numbers differ from them.
_TRAIN_STREAM, _TEST_STREAM = 2, 3

METRICS = ("train_accuracy", "train_loss", "test_accuracy", "test_loss")
Arrays = dict[str, np.ndarray]


class CnnFactory:
    """Trains networks by part; each part follows from the plan and its number alone.

    Attributes:
      planned: the networks.
      parts: numbers of the networks in each part, all of one architecture.
    """

    def __init__(
        self,
        images: ImageSet,
        space: Space,
        number: int,
        seed: int,
        *,
        where: str = "space",
        devices: Sequence[jax.Device] | None = None,
    ):
        """Args:
        images: to train and to test on.
        space: to draw the networks from.
        number: of networks.
        seed: of all that is random.
        where: names the space in messages.
        devices: that share the work; on a CPU the first one, which uses all cores, else all.

        Raises:
          UserError: an architecture that cannot be, or images of one class.
        """
        pixels, labels = _chosen(images, space, seed)
        self.planned = plan(
            space, number, images.image_shape, images.num_classes, len(labels[0]), seed, where
        )
        on_cpu = jax.default_backend() == "cpu"
        self._devices = list(
            devices or (jax.local_devices()[:1] if on_cpu else jax.local_devices())
        )
        self._batch_size = space["batch_size"]
        groups: dict[CnnSpec, list[int]] = {}
        for index, network in enumerate(self.planned):
            groups.setdefault(network.spec, []).append(index)
        # Part after part from each group in turn: two threads then compile two of them.
        size = _PART if on_cpu else _GPU_PART
        placed = [
            (start, number, group[start : start + size])
            for number, group in enumerate(groups.values())
            for start in range(0, len(group), size)
        ]
        self.parts = [part for _, _, part in sorted(placed)]
        self._longest = {
            spec: (
                max(self.planned[index].run.kept[-1] for index in group),
                max(len(self.planned[index].run.kept) for index in group),
            )
            for spec, group in groups.items()
        }
        self._trainers = []
        for device in self._devices:
            with jax.default_device(device):
                self._trainers.append(Trainer(pixels, labels, seed))
        workers = max(len(self._devices), (os.cpu_count() or 1) if on_cpu else 1)
        self._pool = concurrent.futures.ThreadPoolExecutor(workers)
        self._ahead = workers
        self._futures: dict[int, concurrent.futures.Future] = {}

    def make(self, part: int) -> Arrays:
        """Trains a part, while the ones after it are begun: one alone keeps one core busy.

        Returns:
          `weights` (n, K, V) and the `METRICS` (n, K), by name.
        """
        for other in range(part, min(part + self._ahead, len(self.parts))):
            if other not in self._futures:
                self._futures[other] = self._pool.submit(self._train, other)
        return self._futures.pop(part).result()

    def close(self) -> None:
        """Waits for nothing that has not begun."""
        self._pool.shutdown(cancel_futures=True)

    def _train(self, part: int) -> Arrays:
        device = part % len(self._devices)
        networks = [self.planned[index] for index in self.parts[part]]
        spec = networks[0].spec
        with jax.default_device(self._devices[device]):
            trained = self._trainers[device](
                spec,
                [network.run for network in networks],
                self._batch_size,
                *self._longest[spec],
            )
        return {"weights": trained.vectors, **trained.metrics}


def last_checkpoints(images: ImageSet, space: Space, number: int, seed: int) -> Arrays:
    """Trains networks, all in memory, and keeps of each the last checkpoint with finite weights.

    Returns:
      `index` of each network that has one, their `weights` one after the other, where each `ends`,
      and `accuracy` on the test images, by name.
    """
    factory = CnnFactory(images, space, number, seed)
    kept: dict[int, tuple[np.ndarray, np.float32]] = {}
    try:
        with tqdm(total=number, desc="training", unit="net", disable=None) as bar:
            for part, members in enumerate(factory.parts):
                arrays = factory.make(part)
                for row, index in enumerate(members):
                    if rows := finite(factory.planned[index], arrays, row):
                        weights = arrays["weights"][row, rows[-1]]
                        kept[index] = weights, arrays["test_accuracy"][row, rows[-1]]
                bar.update(len(members))
    finally:
        factory.close()
    indices = sorted(kept)
    vectors = [kept[index][0] for index in indices]
    return {
        "index": np.asarray(indices, np.int32),
        "weights": np.concatenate(vectors),
        "ends": np.cumsum([len(vector) for vector in vectors]),
        "accuracy": np.asarray([kept[index][1] for index in indices], np.float32),
    }


def finite(network: Planned, arrays: Arrays, row: int) -> list[int]:
    """The checkpoints, of those that network `row` of a part keeps, whose weights are finite."""
    return [k for k in range(len(network.units)) if np.isfinite(arrays["weights"][row, k]).all()]


def diverged(loss: float, num_classes: int) -> bool:
    """Whether a training loss is that of a network gone astray: above twice that of guessing."""
    return not loss <= 2 * np.log(num_classes)


def _chosen(
    images: ImageSet, space: Space, seed: int
) -> tuple[
    tuple[Float[np.ndarray, "M H W C"], Float[np.ndarray, "E H W C"]],
    tuple[Int[np.ndarray, " M"], Int[np.ndarray, " E"]],
]:
    """As many images as the space says, as networks shall see them."""
    train = _some(images.train, space["train_images"], [seed, _TRAIN_STREAM])
    test = _some(images.test, space["test_images"], [seed, _TEST_STREAM])
    for name, part in (("train", train), ("test", test)):
        if len(np.unique(part.labels)) < 2:
            raise UserError(
                f"{images.name}: all images to {name} on are of one class; a zoo needs at least two"
            )
    pixels = scaled(train.images), scaled(test.images)
    if space["pixels"] == "signed":
        pixels = tuple(part * np.float32(2) - np.float32(1) for part in pixels)
    else:
        mean = pixels[0].mean((0, 1, 2), dtype=np.float64)
        std = np.maximum(pixels[0].std((0, 1, 2), dtype=np.float64), 1e-6)
        pixels = tuple(((part - mean) / std).astype(np.float32) for part in pixels)
    return pixels, (train.labels, test.labels)


def _some(part: Part, number: int, seed: list[int]) -> Part:
    if not number or number >= len(part):
        return part
    rows = np.random.default_rng(seed).permutation(len(part))[:number]
    return Part(part.images[rows], part.labels[rows])
