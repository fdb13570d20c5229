"""Trains on a zoo far larger than it may use memory for, streamed from a file.

    python -m benchmarks.streaming                    20 GB, 300 s
    python -m benchmarks.streaming --gigabytes=1 --seconds=20

The zoo is a sparse file of SIRENs of MNIST-INR's size, all zeros: the networks are no use, but
every byte of each is read, sent to the device and computed with. Sparse pages come from the kernel
and not from a disk, so the speed is that of everything but the disk.
"""

import argparse
import json
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.prepare import status
from probegen_jax import settings
from probegen_jax.method import learning
from probegen_jax.method.learning import adam_cosine
from probegen_jax.method.model import make_model
from probegen_jax.method.tasks import cross_entropy
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.training.batch_order import lay_out
from probegen_jax.training.batches import make_batches
from probegen_jax.training.mesh import BY_SEED, make_mesh, place
from probegen_jax.training.programs import Programs
from probegen_jax.zoo import flat_weights
from probegen_jax.zoo.zoo import Stored, Zoo

SPEC, BATCH, CLASSES = SirenSpec(), 32, 10
SETTINGS = settings.defaults("sparse").to_dict()


def sparse_zoo(path: pathlib.Path, gigabytes: float) -> Zoo:
    """A zoo of zeros, in a file that takes no space."""
    width = flat_weights.size(SPEC.abstract())
    number = int(gigabytes * 1e9) // (4 * width)
    with path.open("wb") as file:
        file.truncate(4 * width * number)

    def read(rows_N: np.ndarray):
        found = np.empty((len(rows_N), width), np.float32)
        with path.open("rb", buffering=0) as file:
            for vector, row in zip(found, rows_N.tolist(), strict=True):
                file.seek(4 * width * row)
                file.readinto(vector)
        return flat_weights.unflatten(found, SPEC.abstract())

    rows = np.arange(number, dtype=np.int32)
    ends = int(0.9 * number), int(0.95 * number)
    splits = dict(zip(("train", "val", "test"), np.split(rows, ends), strict=True))
    targets = rows % CLASSES
    return Zoo("sparse", SPEC, Stored(read), targets, splits, "classification", CLASSES)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=300.0)
    options = parser.parse_args()

    def model(key):
        return make_model(SPEC, SETTINGS, CLASSES, rngs=nnx.Rngs(params=key))

    with tempfile.TemporaryDirectory() as folder:
        zoo = sparse_zoo(pathlib.Path(folder) / "zoo", options.gigabytes)
        mesh = make_mesh(BATCH)
        keys_S = jax.random.key(0)[None]
        layout = lay_out(zoo.splits, BATCH)
        batches = make_batches(zoo, layout, mesh, keys_S, "stream")
        learner = learning.Learner(model, SPEC, cross_entropy, adam_cosine(3e-4, 10**6))
        programs = Programs(learner, mesh)
        state = programs.init(keys_S)
        losses_SxT = place(mesh, jnp.zeros((1, layout.steps["train"])), BY_SEED)
        at, started = 0, None
        early = 0.0
        while started is None or time.perf_counter() - started < options.seconds:
            stretch = batches.stretch(programs, 0, at)
            bounds = [np.int32(each) for each in (stretch.first, at, stretch.stop)]
            state, losses_SxT = programs.run_steps(
                state, losses_SxT, stretch.weights, stretch.targets_N, stretch.places_SxKxB, *bounds
            )
            jax.block_until_ready(state.step)
            at = stretch.stop
            if started is None:  # compiled
                started, first = time.perf_counter(), at
            elif not early and time.perf_counter() - started > options.seconds / 10:
                early = status("VmHWM")
            if at == layout.steps["train"]:
                break
        seconds = time.perf_counter() - started
        batches.close()
    print(
        json.dumps(
            {
                "zoo_gb": options.gigabytes,
                "networks": len(zoo),
                "seconds": seconds,
                "networks_streamed": (at - first) * BATCH,
                "gb_streamed": (at - first) * BATCH * 4 * SPEC.num_weights / 1e9,
                "networks_per_second": (at - first) * BATCH / seconds,
                "peak_gb_after_a_tenth": early / 1e9,
                "peak_gb": status("VmHWM") / 1e9,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
