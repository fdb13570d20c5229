"""The readout of CNNs' maps: what it computes, where it begins; that it trains and travels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_run import stopped_at

import probegen_jax
from probegen_jax import settings
from probegen_jax.method.model import make_model
from probegen_jax.method.readouts import maps as readout
from probegen_jax.method.tasks import Scale
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer import ConvLayer
from probegen_jax.networks.pixels import Pixels
from probegen_jax.runs.experiment import load_run
from probegen_jax.runs.exported import export
from probegen_jax.zoo import own

SETTINGS = settings.defaults("cifar10_gs").to_dict() | {
    "method": "vanilla", "num_probes": 4, "head_width": 16, "head_depth": 3,
}  # fmt: skip
SPEC = CnnSpec(
    (ConvLayer(1, 4, 3, 1, 1, "per_network"), ConvLayer(4, 6, 3, 2, 1, "tanh")),
    num_classes=3,
    image_shape=(8, 8, 1),
    activations=("relu", "gelu"),
    pixels=Pixels((0.5,), (0.3,)),
)


def model_of(name, outputs=1):
    rngs = nnx.Rngs(params=0)
    return make_model(SPEC, SETTINGS | {"readout": name}, outputs, rngs=rngs)


def networks(number):
    return jax.vmap(SPEC.init)(jax.random.split(jax.random.key(1), number))


@pytest.mark.slow  # compiles for long
def test_it_begins_as_outputs_do_bit_for_bit():
    hidden, outputs = model_of("hidden"), model_of("outputs")
    weights = networks(5)
    run = nnx.jit(lambda model, weights: model(weights))
    np.testing.assert_array_equal(run(hidden, weights), run(outputs, weights))
    ours, theirs = (nnx.to_pure_dict(nnx.state(each, nnx.Param)) for each in (hidden, outputs))
    jax.tree.map(np.testing.assert_array_equal, ours["head"]["layers"], theirs["head"]["layers"])
    # What it adds is not idle: where the last layer's zeros are gone, maps say something.
    hidden.head.correction[...] = jnp.ones_like(hidden.head.correction[...])
    assert np.abs(run(hidden, weights) - run(outputs, weights)).max() > 1e-3


def test_averages_are_read_as_each_cell_and_channel_would_be():
    head, weights = model_of("hidden").head, networks(3)
    for pool in (head.cells, head.channels):  # else all weigh almost the same
        pool.query[...] = jax.random.normal(jax.random.key(2), pool.query.shape)
    probes = jax.random.normal(jax.random.key(3), (4, 8, 8, 1))
    answers = nnx.jit(lambda head: head.answers(SPEC, weights, probes))(head)
    assert answers.shape == (3, 4, 3 + 2 * 65)

    def everything(cells, whole, there, query):
        cells = jnp.pad(cells.reshape(4, -1, cells.shape[3]), [(0, 0), (0, 14), (0, 0)])
        values = cells.at[:, -14:].set(whole)
        return jnp.pad(values, [(0, 0), (0, 0), (0, 6 - whole.shape[2])]).reshape(4, -1)

    queries = jnp.zeros((3, 2, 1))
    kept = jax.jit(lambda: SPEC.respond_with_maps(weights, probes, everything, queries))()[1]
    described, _ = SPEC.describe_layers(weights)

    @nnx.jit
    def read(head, kept, described):
        widen, narrow = head.describe
        embedded = narrow(jax.nn.gelu(widen(described), approximate=False))
        scale, shift = jnp.split(head.modulate(embedded), 2, axis=-1)
        expected = []
        for layer, channels in enumerate((4, 6)):
            values = kept[:, :, layer].reshape(3, 4, -1, 6)[..., :channels].swapaxes(2, 3)
            cells, whole = values[..., :96].reshape(3, 4, channels, 6, 16), values[..., 96:]
            places = head.place(jnp.asarray(readout._places()))
            tokens = head.cell(cells.swapaxes(3, 4)) + places[None, None, None]
            by_layer = (slice(None), layer, None, None, None)
            tokens = tokens * (1 + scale[by_layer]) + shift[by_layer]
            down, up = head.token
            tokens = up(down(jnp.concatenate([head.cells(tokens), whole], axis=-1)))
            expected.append(head.channels(tokens))
        return expected

    for layer, expected in enumerate(read(head, kept, described)):
        found = answers[:, :, 3:].reshape(3, 4, 2, 65)[:, :, layer]
        np.testing.assert_allclose(found[..., :64], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found[..., 64], 1)


def test_layers_that_a_network_lacks_say_nothing():
    head = model_of("hidden").head
    head.correction[...] = jnp.ones_like(head.correction[...])
    answers = jax.random.normal(jax.random.key(0), (2, 4, 3 + 2 * 65))
    there = answers.at[:, :, 3 + 64].set(1).at[:, :, 3 + 129].set(0)
    changed = there.at[:, :, 3 + 65 : 3 + 129].add(5.0)
    np.testing.assert_array_equal(head(there), head(changed))
    assert np.isfinite(head(there)).all()
    both = there.at[:, :, 3 + 129].set(1)
    assert np.abs(head(both) - head(there)).max() > 1e-4


def test_values_in_the_targets_own_unit():
    model = model_of("hidden")
    model.head.correction[...] = jax.random.normal(jax.random.key(1), (64, 1))
    graph, params, rest = nnx.split(model.head, nnx.Param, ...)
    answers = jax.random.normal(jax.random.key(0), (2, 4, 3 + 2 * 65))
    scale = Scale(mean=0.3, std=0.05)
    changed = type(model.head).predicting_values(nnx.to_pure_dict(params), scale)
    found = nnx.merge(graph, changed, rest)(answers)
    np.testing.assert_allclose(found, scale.values(np.asarray(model.head(answers))), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["vanilla", "dead_leaves"])
def test_it_trains_resumes_predicts_and_travels(method, tmp_path):
    rng = np.random.default_rng(0)
    weights = jax.tree.map(np.asarray, networks(40))
    zoo = own.from_arrays("maps", SPEC, weights, rng.random(40), task="regression")
    small = {
        "num_probes": 4, "num_epochs": 2, "batch_size": 10, "head_width": 8, "head_depth": 2,
        "learning_rate": 0.01, "checkpoint_every": 2, "eval_every": 2,
        "readout": "hidden", "report": method == "dead_leaves",
    }  # fmt: skip
    whole = probegen_jax.train(zoo, method, workdir=tmp_path / "whole", **small)
    with stopped_at(2):
        probegen_jax.train(zoo, method, workdir=tmp_path / "parts", **small)
    parts = probegen_jax.train(zoo, method, workdir=tmp_path / "parts", **small)
    jax.tree.map(np.testing.assert_array_equal, whole.head_params, parts.head_params)
    assert np.abs(whole.head_params["correction"]).max() > 0
    expected = whole.predict(zoo).values_SxNxO
    export(load_run(tmp_path / "whole", zoo=zoo), tmp_path / "model")
    moved = probegen_jax.load(tmp_path / "model")
    np.testing.assert_array_equal(moved.predict(zoo).values_SxNxO, expected)


@pytest.mark.slow
def test_from_a_trained_run_of_outputs_it_begins_as_that_run(tmp_path):
    rng = np.random.default_rng(0)
    weights = jax.tree.map(np.asarray, networks(40))
    zoo = own.from_arrays("maps", SPEC, weights, rng.random(40), task="regression")
    small = {
        "num_probes": 4, "num_epochs": 1, "batch_size": 10, "head_width": 8, "head_depth": 2,
        "report": False,
    }  # fmt: skip
    trained = probegen_jax.train(zoo, "vanilla", workdir=tmp_path / "run", **small)
    still = {"init_from": str(tmp_path / "run"), "learning_rate": 1e-30, "readout": "hidden"}
    begun = probegen_jax.train(zoo, "vanilla", workdir=tmp_path / "more", **small, **still)
    np.testing.assert_array_equal(
        begun.predict(zoo).values_SxNxO, trained.predict(zoo).values_SxNxO
    )
