"""Trains the same few steps on 1, 2, 4 and 8 simulated devices, and prints what came out, as JSON.

Its argument is a folder, for a checkpoint of the training of INRs on four of them.

A process of its own, because the number of devices is fixed when jax starts; the other tests have
one. Not a test itself: `test_devices.py` looks at what is printed.
"""

import json
import os
import pathlib
import re
import sys

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    # Quick to compile.
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np
from flax import nnx

from probegen_jax.method import learning
from probegen_jax.method.learning import adam_cosine
from probegen_jax.method.model import make_model
from probegen_jax.method.tasks import cross_entropy
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer import ConvLayer
from probegen_jax.networks.mixed_cnn import mixed
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.training.batch_order import lay_out
from probegen_jax.training.batches import make_batches
from probegen_jax.training.checkpoints import Checkpoints
from probegen_jax.training.mesh import BY_SEED, fetch, make_mesh, place
from probegen_jax.training.programs import Programs
from probegen_jax.zoo.zoo import Zoo

NUM_NETWORKS, BATCH = 44, 16
TRAIN = 36  # the last batch is not full
IMAGE = (4, 4, 1)


def cnn(channels: int, activation: str, layers: int = 2) -> CnnSpec:
    convolutions = [
        ConvLayer(1 if not i else channels, channels, 3, 1, 1, activation, i - 1 if i > 1 else -1)
        for i in range(layers)
    ]
    return CnnSpec(tuple(convolutions), 3, IMAGE)


def make_zoo(kind: str) -> Zoo:
    keys = jax.random.split(jax.random.key(0), NUM_NETWORKS)
    if kind == "inr":
        spec = SirenSpec(hidden=(8,))
        weights = jax.vmap(spec.init)(keys)
    elif kind == "cnn":
        spec = cnn(4, "tanh")
        weights = jax.vmap(spec.init)(keys)
    else:
        members = [cnn(4, "relu", layers=1), cnn(4, "tanh"), cnn(4, "gelu", layers=3)]
        specs = [members[n % 3] for n in range(NUM_NETWORKS)]
        inits = {member: jax.jit(member.init) for member in members}
        networks = [inits[member](key) for member, key in zip(specs, keys, strict=True)]
        spec, weights = mixed.build(specs, jax.tree.map(np.asarray, networks))
    rows = np.arange(NUM_NETWORKS, dtype=np.int32)
    splits = {"train": rows[:TRAIN], "val": rows[TRAIN:-3], "test": rows[-3:]}
    targets = rows % 3
    weights = jax.tree.map(np.asarray, weights)
    return Zoo(kind, spec, weights, targets, splits, "classification", 3)


def make_learner(spec) -> learning.Learner:
    def model(key):
        settings = {"method": "vanilla", "num_probes": 4, "head_width": 8, "head_depth": 2}
        return make_model(spec, settings, 3, rngs=nnx.Rngs(params=key))

    return learning.Learner(model, spec, cross_entropy, adam_cosine(1e-2, 300))


def run(zoo: Zoo, folder: str, devices: int, groups: int = 1) -> dict:
    mesh = make_mesh(BATCH, 2, groups, jax.devices()[:devices])
    programs = Programs(make_learner(zoo.spec), mesh)
    keys_S = jax.vmap(jax.random.key)(np.arange(2))
    batches = make_batches(zoo, lay_out(zoo.splits, BATCH, zoo.costs()), mesh, keys_S, "resident")
    state = programs.init(keys_S)
    stretch = batches.stretch(programs, 0, 0)
    losses_SxT = place(mesh, np.zeros((2, stretch.stop), np.float32), BY_SEED)
    bounds = [np.int32(step) for step in (0, 0, stretch.stop)]
    arguments = (stretch.weights, stretch.targets_N, stretch.places_SxKxB, *bounds)
    compiled = programs.run_steps.lower(state, losses_SxT, *arguments).compile()
    trained, losses_SxT = compiled(state, losses_SxT, *arguments)
    collectives = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    exchanges = re.findall(rf" ({collectives})(?:-start)?\(", compiled.as_text())
    found = {
        "devices": devices,
        "groups": groups,
        "losses": fetch(mesh, losses_SxT).tolist(),
        "params": np.concatenate(
            [leaf.ravel() for leaf in jax.tree.leaves(fetch(mesh, trained.params))]
        ).tolist(),
        "places": fetch(mesh, stretch.places_SxKxB).tolist(),
        "exchanges": {name: exchanges.count(name) for name in set(exchanges)},
        # Of all devices and of one.
        "lengths": [
            (leaf.shape[0], leaf.addressable_shards[0].data.shape[0])
            for leaf in jax.tree.leaves(stretch.weights)
        ],
    }
    if zoo.name == "inr":
        outputs = batches.outputs(programs, state.params, state.fixed, "val")
        outputs_SxNxO = np.concatenate(fetch(mesh, outputs), axis=1).reshape(2, -1, 3)
        found["outputs"] = outputs_SxNxO[:, : len(zoo.splits["val"])].tolist()
        if groups > 1:
            checkpoints = Checkpoints(folder)
            checkpoints.save(1, {"best_params": trained.params, "state": trained}, {})
            checkpoints.close()
    return found


def main(folder: str) -> None:
    cases = {
        "inr": [(1, 1), (2, 1), (4, 1), (8, 1), (4, 2)],
        "mixed": [(1, 1), (2, 1), (4, 1), (8, 1)],
        "cnn": [(1, 1), (4, 1)],
    }
    print(
        json.dumps(
            {
                kind: [run(zoo, folder, *case) for case in cases[kind]]
                for kind, zoo in ((kind, make_zoo(kind)) for kind in cases)
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
