"""Trains the networks of a planned zoo: in parts of one architecture, on all cores or devices."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from probegen_jax import cpu_devices
from probegen_jax.errors import UserError
from probegen_jax.factory.cnn.fit import Trainer
from probegen_jax.factory.cnn.planned import Planned, by_architecture, plan
from probegen_jax.factory.cnn.search_space import Space
from probegen_jax.factory.images.files import Part
from probegen_jax.factory.images.sources import ImageSet, scaled
from probegen_jax.networks.pixels import Pixels
from probegen_jax.zoo.cache import Arrays

# Networks that are trained before they are written: seconds' worth on a CPU, a full GPU.
_PART, _GPU_PART = 16, 512
# Sets of images are drawn by these, so that a network's own numbers differ from them.
_STREAMS = {"train": 2, "test": 3}


class CnnFactory:
    """Trains networks by part; each part follows from the plan and its number alone.

    Attributes:
      planned: the networks.
      parts: numbers of the networks in each part, all of one architecture.
      pixels: how images are normalised for the networks.
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
        processes: bool = False,
    ):
        """Args:
        where: names the space in messages.
        devices: that share the work; on a CPU the first one, which uses all cores, else all.
        processes: on a CPU, trains in a process for each core, not in threads: it takes some
          seconds to begin, but then a core does not wait for others within a network's step. As
          always with `multiprocessing`, a script that asks for it must be safe to import.

        Raises:
          UserError: an architecture that cannot be, or images of one class.
        """
        train, test, self.pixels = _chosen(images, space, seed)
        self.planned = plan(
            space, number, images.image_shape, images.num_classes, len(train), seed, where
        )
        on_cpu = (devices or jax.local_devices())[0].platform == "cpu"
        self._batch_size = space["batch_size"]
        self._groups = by_architecture(self.planned, range(number))
        # Part after part from each group in turn: two threads then compile two of them.
        size = _PART if on_cpu else _GPU_PART
        self.parts = [
            group[start : start + size]
            for start in range(0, number, size)
            for group in self._groups.values()
            if start < len(group)
        ]
        workers, self._trainers = cpu_devices.cores(), []
        self._pool: concurrent.futures.Executor
        if processes and on_cpu and workers > 1:
            spawn = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(
                workers, spawn, _begin_process, (train, test, seed)
            )
        else:
            for device in devices or jax.local_devices()[: 1 if on_cpu else None]:
                with jax.default_device(device):
                    trainer = Trainer(train, test, seed, platform=device.platform)
                    self._trainers.append((device, trainer))
            workers = max(len(self._trainers), workers if on_cpu else 1)
            self._pool = concurrent.futures.ThreadPoolExecutor(workers)
        self._ahead = 2 * workers  # so that nobody waits for a part that takes longer
        self._futures: dict[int, concurrent.futures.Future] = {}

    def make(self, part: int) -> Arrays:
        """What `Trainer` returns of a part; those after it are begun: one keeps one core busy.

        Raises:
          UserError: a process that trains has died.
        """
        try:
            for other in range(part, min(part + self._ahead, len(self.parts))):
                if other not in self._futures:
                    self._futures[other] = self._begin(other)
            return self._futures.pop(part).result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process that trains networks was killed, as happens where memory runs out; with "
                "enough of it, the same command goes on"
            ) from error

    def close(self) -> None:
        """Waits for nothing that has not begun."""
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, part: int) -> concurrent.futures.Future:
        runs = [self.planned[index].run for index in self.parts[part]]
        spec = self.planned[self.parts[part][0]].spec
        alike = [self.planned[index].run.kept for index in self._groups[spec]]
        steps, kept = max(units[-1] for units in alike), max(map(len, alike))
        how = spec, runs, self._batch_size, steps, kept
        if not self._trainers:
            return self._pool.submit(_train_in_process, *how)
        device, trainer = self._trainers[part % len(self._trainers)]
        return self._pool.submit(_train_on, device, trainer, *how)


def _train_on(device: jax.Device, trainer: Trainer, *how: Any) -> Arrays:
    with jax.default_device(device):
        return trainer(*how)


# Of a process that trains, and of no other.
_trainer: Trainer | None = None


def _begin_process(*how: Any) -> None:
    """Readies this process to train on one core."""
    global _trainer
    os.environ[cpu_devices.THREADS] = "1"
    jax.config.update("jax_platforms", "cpu")
    # The one that began this process decides when it ends, also where it is killed itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _trainer = Trainer(*how)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train_in_process(*how: Any) -> Arrays:
    assert _trainer is not None
    return _trainer(*how)


def last_checkpoints(images: ImageSet, space: Space, number: int, seed: int) -> Arrays:
    """Trains networks, all in memory, and keeps of each the last checkpoint with finite weights.

    Returns:
      `index` of each network that has one, their `weights` one after the other, where each `ends`,
      and `accuracy` on the test images, by name.
    """
    kept: dict[int, tuple[np.ndarray, np.float32]] = {}
    with (
        contextlib.closing(CnnFactory(images, space, number, seed)) as factory,
        tqdm(total=number, desc="training", unit="net", disable=None) as bar,
    ):
        for part, members in enumerate(factory.parts):
            arrays = factory.make(part)
            for row, index in enumerate(members):
                if rows := finite(factory.planned[index], arrays, row):
                    weights = arrays["weights"][row, rows[-1]]
                    kept[index] = weights, arrays["test_accuracy"][row, rows[-1]]
            bar.update(len(members))
    vectors, accuracies = zip(*(kept[index] for index in sorted(kept)), strict=True)
    return {
        "index": np.asarray(sorted(kept), np.int32),
        "weights": np.concatenate(vectors),
        "ends": np.cumsum([len(vector) for vector in vectors]),
        "accuracy": np.asarray(accuracies, np.float32),
    }


def finite(network: Planned, arrays: Arrays, row: int) -> list[int]:
    """The checkpoints, of those that network `row` of a part keeps, whose weights are finite."""
    return [k for k in range(len(network.units)) if np.isfinite(arrays["weights"][row, k]).all()]


def _chosen(images: ImageSet, space: Space, seed: int) -> tuple[Part, Part, Pixels]:
    """To train and to test on: as many images as the space says, as networks shall see them."""
    parts = []
    for name, part in (("train", images.train), ("test", images.test)):
        number = space[f"{name}_images"]
        if 0 < number < len(part):
            rows = np.random.default_rng([seed, _STREAMS[name]]).permutation(len(part))[:number]
            part = Part(part.images[rows], part.labels[rows])
        if len(np.unique(part.labels)) < 2:
            raise UserError(
                f"{images.name}: all images to {name} on are of one class; a zoo needs at least two"
            )
        parts.append(part)
    pixels = [scaled(part.images) for part in parts]
    if space["pixels"] == "signed":
        pixels = [array * np.float32(2) - np.float32(1) for array in pixels]
        mean = std = np.full(images.image_shape[2], 0.5)
    else:
        mean = pixels[0].mean((0, 1, 2), dtype=np.float64)
        std = np.maximum(pixels[0].std((0, 1, 2), dtype=np.float64), 1e-6)
        pixels = [((array - mean) / std).astype(np.float32) for array in pixels]
    train, test = (Part(array, part.labels) for array, part in zip(pixels, parts, strict=True))
    return train, test, Pixels(tuple(mean.tolist()), tuple(std.tolist()))
