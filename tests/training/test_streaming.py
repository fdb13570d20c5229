"""A zoo that is streamed, beside the same zoo on the devices."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_learning import SPEC, make_learner

from probegen_jax.method import learning
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer import ConvLayer
from probegen_jax.networks.mixed_cnn import mixed, tables
from probegen_jax.training import streaming
from probegen_jax.training.batch_order import lay_out
from probegen_jax.training.batches import make_batches
from probegen_jax.training.mesh import make_mesh
from probegen_jax.training.programs import Programs
from probegen_jax.training.streaming import Streamed
from probegen_jax.zoo.zoo import Stored, Zoo

NUM, BATCH = 50, 4
BYTES = 4 * SPEC.num_weights


@pytest.fixture(scope="module")
def setting():
    weights = jax.vmap(SPEC.init)(jax.random.split(jax.random.key(0), NUM))
    weights = jax.tree.map(np.asarray, weights)
    rows = np.arange(NUM, dtype=np.int32)
    splits = {"train": rows[:38], "val": rows[38:45], "test": rows[45:]}
    zoo = Zoo("small", SPEC, weights, rows % 3, splits, "classification", 3)
    keys_S = jax.vmap(jax.random.key)(jnp.arange(2))
    mesh = make_mesh(BATCH, 2, devices=jax.devices()[:1])
    return zoo, lay_out(splits, BATCH), mesh, keys_S


def test_steps_of_large_networks_are_read_one_at_a_time(setting, monkeypatch):
    monkeypatch.setattr(streaming, "_LARGE_BYTES", BATCH * BYTES)
    zoo, layout, mesh, keys_S = setting
    read = []

    def from_disk(rows_N):
        read.append(len(rows_N))
        return zoo.read(rows_N)

    stored = dataclasses.replace(zoo, weights=Stored(from_disk))
    batches = Streamed(stored, layout, mesh, keys_S, BYTES, chunk_bytes=1)
    programs, resident = Programs(make_learner(), mesh), make_batches(*setting, "resident")
    for at in range(10):
        with jax.transfer_guard("disallow"):  # as in training, whose thread it is that reads
            ours = batches.stretch(programs, 0, at)
        assert read == [2 * BATCH] * (at + 1)  # for two seeds, and no step ahead
        theirs = resident.stretch(programs, 0, at)
        for a, b in zip(networks_of(ours, at), networks_of(theirs, at), strict=True):
            np.testing.assert_array_equal(a, b)
    position = json.loads(json.dumps(batches.position))
    again = Streamed(stored, layout, mesh, keys_S, BYTES, chunk_bytes=1)
    again.restore(position)
    for a, b in zip(
        networks_of(again.stretch(programs, 0, 9), 9), networks_of(ours, 9), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    batches.close()
    again.close()


@pytest.fixture
def streamed(setting):
    # Chunks of 3 steps of 10: three whole ones and a rest.
    batches = Streamed(*setting, BYTES, chunk_bytes=3 * 2 * BATCH * BYTES)
    yield batches
    batches.close()


def networks_of(stretch, at):
    """The first layer's biases and targets of a step's networks, of each seed."""
    slots = np.arange(BATCH)
    places_SxB = np.asarray(stretch.places_SxKxB)[:, at - stretch.first]
    number = len(stretch.targets_N) // BATCH
    rows_SxB = np.where(places_SxB >= 0, slots * number + places_SxB, -1)
    biases_N = np.asarray(stretch.weights[0]["kernel"])[:, 0]
    found = biases_N[rows_SxB], np.asarray(stretch.targets_N)[rows_SxB]
    return [
        np.where((rows_SxB >= 0).reshape(*rows_SxB.shape, *[1] * (f.ndim - 2)), f, 0) for f in found
    ]


def test_batches_are_those_of_the_resident_zoo(setting, streamed):
    programs = Programs(make_learner(), setting[2])
    resident = make_batches(*setting, "resident")
    sizes = set()
    for epoch in range(2):
        for at in range(10):
            ours = streamed.stretch(programs, epoch, at)
            theirs = resident.stretch(programs, epoch, at)
            assert ours.first <= at < ours.stop
            sizes.add(ours.steps)
            for a, b in zip(networks_of(ours, at), networks_of(theirs, at), strict=True):
                np.testing.assert_array_equal(a, b)
    assert sizes == {3, 1}


def test_a_position_is_plain_and_found_again_even_with_other_chunks(setting, streamed):
    programs = Programs(make_learner(), setting[2])
    for at in range(5):
        expected = streamed.stretch(programs, 1, at)
    position = json.loads(json.dumps(streamed.position))
    assert position["chunk"] == 5 and position["state"] == {"next_index": 5}
    for steps in (3, 2):
        again = Streamed(*setting, BYTES, chunk_bytes=steps * 2 * BATCH * BYTES)
        again.restore(position)
        found = again.stretch(programs, 1, 4)
        for a, b in zip(networks_of(found, 4), networks_of(expected, 4), strict=True):
            np.testing.assert_array_equal(a, b)
        again.close()


def test_predictions_and_responses_are_those_of_the_resident_zoo(setting, streamed):
    programs = Programs(make_learner("uniform"), setting[2])
    resident = make_batches(*setting, "resident")
    state = programs.init(setting[3])
    outputs = [
        np.concatenate(batches.outputs(programs, state.params, state.fixed, "val"), axis=1)
        for batches in (streamed, resident)
    ]
    flat = [each.reshape(2, -1, 3)[:, :7] for each in outputs]  # the rest is padding
    np.testing.assert_allclose(*flat, atol=1e-6)
    responses = [batches.responses(programs, state) for batches in (streamed, resident)]
    np.testing.assert_allclose(*responses, atol=1e-6)
    assert learning.probes_are_fixed(state)


def test_stored_networks_are_read_by_row(setting):
    zoo, layout, mesh, keys_S = setting
    read = []

    def from_disk(rows_N):
        read.append(len(rows_N))
        return jax.tree.map(lambda leaf: leaf[rows_N], zoo.weights)

    stored = Zoo("stored", SPEC, Stored(from_disk), zoo.targets_N, zoo.splits, zoo.task, 3)
    batches = Streamed(stored, layout, mesh, keys_S, BYTES, chunk_bytes=2 * BATCH * BYTES)
    batches.stretch(Programs(make_learner(), mesh), 0, 0)
    batches.close()
    assert set(read) == {2 * BATCH}  # one step of two seeds


MIXED = 26


@pytest.fixture(scope="module")
def mixed_setting():
    """As `setting`, of networks of one to three layers of many kinds."""
    rng = np.random.default_rng(0)
    specs, networks = [], []
    for _ in range(MIXED):
        channels = [1, *(int(c) for c in rng.choice([2, 4], rng.integers(1, 4)))]
        sides = [int(rng.choice([1, 3])) for _ in channels[1:]]
        shapes = zip(channels[:-1], channels[1:], sides, strict=True)
        layers = [ConvLayer(m, n, k, 1, k // 2, "tanh") for m, n, k in shapes]
        spec = CnnSpec(tuple(layers), 3, (4, 4, 1))
        arrays = spec.abstract()
        specs.append(spec)
        networks.append(
            jax.tree.map(lambda leaf: rng.normal(0, 1, leaf.shape).astype(np.float32), arrays)
        )
    spec, weights = mixed.build(specs, networks)
    rows = np.arange(MIXED, dtype=np.int32)
    splits = {"train": rows[:18], "val": rows[18:23], "test": rows[23:]}
    targets_N = rng.random(MIXED, np.float32)
    zoo = Zoo("park", spec, weights, targets_N, splits, "regression", 1)

    def from_disk(rows_N):
        chosen = [specs[n] for n in rows_N], [networks[n] for n in rows_N]
        names = [str(n) for n in rows_N]
        return tables.pack(spec.kinds, spec.max_layers, *chosen, names)

    known = {"programs": {k: v for k, v in weights["programs"].items() if k != "head"}}
    stored = dataclasses.replace(zoo, weights=Stored(from_disk, known))
    layout = lay_out(splits, BATCH, zoo.costs())
    np.testing.assert_array_equal(stored.costs(), zoo.costs())
    mesh = make_mesh(BATCH, 2, devices=jax.devices()[:1])
    return zoo, stored, layout, mesh, jax.vmap(jax.random.key)(jnp.arange(2))


def layers_of(batch, chosen_B):
    """Every array of some of a batch of mixed networks, whatever row of a table it lies in."""
    programs = jax.tree.map(lambda leaf: np.asarray(leaf)[chosen_B], batch["programs"])
    found = [*jax.tree.leaves(programs["head"]), programs["depth"]]
    for n, depth in enumerate(programs["depth"]):
        for layer in range(depth):
            kind, row = (programs[name][n, layer] for name in ("kind", "row"))
            found += [kind, *(np.asarray(leaf[row]) for leaf in batch["tables"][kind].values())]
            found += [programs[name][n, layer] for name in ("activation", "residual")]
    return found


@pytest.mark.parametrize("where", ["in memory", "stored"])
def test_batches_of_a_mixed_zoo_are_those_of_the_resident_one(mixed_setting, where):
    zoo, stored, *rest = mixed_setting
    learner = dataclasses.replace(make_learner(), spec=zoo.spec)
    programs = Programs(learner, rest[1])
    resident = make_batches(zoo, *rest, "resident")
    streamed = make_batches(zoo if where == "in memory" else stored, *rest, "stream")
    assert isinstance(streamed, Streamed)
    steps = rest[0].steps["train"]
    shapes = set()
    for epoch in range(3):
        for at in range(steps):
            batches = []
            for each in (streamed, resident):
                stretch = each.stretch(programs, epoch, at)
                places_SxB = np.asarray(stretch.places_SxKxB)[:, at - stretch.first]
                number = len(stretch.targets_N) // BATCH
                for places_B in places_SxB:
                    rows_B = np.where(places_B >= 0, np.arange(BATCH) * number + places_B, 0)
                    networks = zoo.spec.take(stretch.weights, rows_B)
                    batches.append(layers_of(networks, places_B >= 0))
                if each is streamed:
                    shapes.add(tuple(leaf.shape for leaf in jax.tree.leaves(stretch.weights)))
            assert len(batches) == 4
            for ours, theirs in zip(batches[:2], batches[2:], strict=True):
                jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert len(shapes) == 1  # so that one compilation serves every chunk
    streamed.close()
