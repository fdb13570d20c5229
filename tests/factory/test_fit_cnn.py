"""Training of zoo CNNs, held against plain loops with Optax's optimisers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from probegen_jax.factory.builtin import digits_cnn
from probegen_jax.factory.cnn import fit, initial_weights
from probegen_jax.factory.cnn.dropout import Dropout
from probegen_jax.factory.cnn.fit import Trainer, TrainingRun
from probegen_jax.factory.cnn.optimizers import OPTIMIZERS
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer import ConvLayer
from probegen_jax.zoo import flat_weights

SPEC = CnnSpec(
    (ConvLayer(1, 4, 3, 2, 0, "tanh"), ConvLayer(4, 6, 3, 1, 1, "gelu", residual=0)),
    num_classes=10,
    image_shape=(8, 8, 1),
)
BASE = TrainingRun(0, learning_rate=1e-2, train_images=300, kept=(0, 3, 12), init_scale=1.5)
CHOICES = {
    "adam": BASE,
    "sgd": dataclasses.replace(BASE, optimizer="sgd", learning_rate=0.3),
    "momentum": dataclasses.replace(BASE, index=1, optimizer="sgd", momentum=0.9, l2reg=1e-2),
    "rmsprop": dataclasses.replace(BASE, index=2, optimizer="rmsprop", l2reg=1e-3),
}
OPTAX = {
    "adam": optax.adam(1e-2),
    "sgd": optax.sgd(0.3),
    "momentum": optax.sgd(1e-2, momentum=0.9),
    "rmsprop": optax.rmsprop(1e-2),
}


@pytest.fixture(scope="module")
def trainer():
    images = digits_cnn.digit_images()
    return Trainer(images.train, images.test, 0, eval_images=99)


@pytest.fixture(scope="module")
def trained(trainer):
    return trainer(SPEC, list(CHOICES.values()), 16, 12, 3)


def flat(weights):
    return flat_weights.flatten(jax.tree.map(np.asarray, weights))


def weights_of(vector):
    stacked = flat_weights.unflatten(np.asarray(vector)[None], SPEC.abstract())
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), stacked)


@pytest.mark.parametrize("row, name", list(enumerate(CHOICES)))
def test_every_step_is_that_of_a_plain_loop(row, name, trainer, trained):
    run, optimizer = CHOICES[name], OPTAX[name]
    numbers = trainer._on_host(SPEC, run, 16, 12, 3)
    images, labels = trainer._images, trainer._labels
    weights = weights_of(numbers["start"])

    @jax.jit
    def step(weights, state, rows):
        def loss(weights):
            logits = SPEC.apply(weights, images[rows])
            kernels = [affine["kernel"] for affine in (*weights["layers"], weights["head"])]
            l2 = sum(jnp.sum(kernel**2) for kernel in kernels)
            each = optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows])
            return jnp.mean(each) + run.l2reg * l2

        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.grad(loss)(weights), state)
        return optax.apply_updates(weights, updates), state

    state = optimizer.init(weights)
    for t in range(12):
        if t in run.kept:
            k = run.kept.index(t)
            kept = trained["weights"][row, k]
            np.testing.assert_allclose(kept, flat(weights), atol=2e-5)
        weights, state = step(weights, state, numbers["rows"][t])
    np.testing.assert_allclose(trained["weights"][row, 2], flat(weights), atol=1e-4)
    guesses = np.argmax(np.asarray(SPEC.apply(weights, images)), axis=-1)
    right = guesses == np.asarray(labels)
    seen, test = numbers["seen"][:99], numbers["test"]
    assert trained["test_accuracy"][row, 2] == pytest.approx(right[test].mean(), abs=4e-3)
    assert trained["train_accuracy"][row, 2] == pytest.approx(right[seen].mean(), abs=2e-2)


def test_every_optimizer_is_tried():
    assert {run.optimizer for run in CHOICES.values()} == set(OPTIMIZERS)


def test_a_network_depends_on_its_run_alone(trainer, trained):
    alone = trainer(SPEC, [CHOICES["momentum"]], 16, 12, 3)
    np.testing.assert_array_equal(alone["weights"][0], trained["weights"][2])
    for name, values in trained.items():
        np.testing.assert_array_equal(alone[name][0], values[2])


def test_side_by_side_is_the_same_as_one_after_the_other(trained):
    images = digits_cnn.digit_images()
    trainer = Trainer(images.train, images.test, 0, eval_images=99, platform="gpu")
    together = trainer(SPEC, list(CHOICES.values()), 16, 12, 3)
    np.testing.assert_allclose(together["weights"], trained["weights"], atol=1e-4)


def test_chunks_of_a_batch_are_the_same_as_the_whole(trainer, trained, monkeypatch):
    monkeypatch.setattr(fit, "_CACHE", 4 * 9 * 36 * 4)
    assert fit._chunk_size(SPEC, 16, True) == 4
    jax.clear_caches()
    chunked = trainer(SPEC, [CHOICES["adam"]], 16, 12, 3)
    jax.clear_caches()
    np.testing.assert_allclose(chunked["weights"][0], trained["weights"][0], atol=1e-4)


def test_dropout_drops_its_share_and_keeps_the_mean():
    x = jnp.ones((64, 8, 8, 4))
    for rate in (0.0, 0.25, 0.7):
        dropped = Dropout(jnp.float32(rate), (1, 2))(x, 3)
        assert float(jnp.mean(dropped == 0, dtype=jnp.float32)) == pytest.approx(rate, abs=0.02)
        assert float(dropped.mean()) == pytest.approx(1, abs=0.05)
    one, other = (Dropout(jnp.float32(0.5), (1, 2))(x, layer) for layer in (3, 4))
    assert float(jnp.mean(one == other, dtype=jnp.float32)) == pytest.approx(0.5, abs=0.03)


def test_batches_are_epochs_of_the_subset():
    rows = fit._batches(np.random.default_rng(0), 10, 7, 4)
    assert rows.shape == (7, 4)
    for epoch in range(3):
        assert len(set(rows[2 * epoch : 2 * epoch + 2].ravel())) == 8
    small = fit._batches(np.random.default_rng(0), 3, 2, 8)
    assert set(small[0]) == {0, 1, 2}


@pytest.mark.parametrize("name", initial_weights.INITIALIZERS)
def test_initial_weights_have_the_spread_that_their_name_says(name):
    layers = (ConvLayer(1, 64, 3, 1, 1, "relu"), ConvLayer(64, 64, 3, 1, 1, "relu"))
    wide = CnnSpec(layers, 10, (8, 8, 1))
    vector = initial_weights.initial(wide, name, 0.2, np.random.default_rng(0))
    stacked = flat_weights.unflatten(vector[None], wide.abstract())
    kernel = stacked["layers"][1]["kernel"][0]
    fan_in = fan_out = 9 * 64
    expected = {
        "torch": 1 / np.sqrt(3 * fan_in),
        "he_normal": np.sqrt(2 / fan_in),
        "glorot_normal": np.sqrt(2 / (fan_in + fan_out)),
        "orthogonal": 1 / np.sqrt(fan_in),
        "RandomNormal": 0.2,
        "TruncatedNormal": 0.2 * 0.8796,
    }[name]
    assert kernel.std() == pytest.approx(expected, rel=0.03)
    if name == "orthogonal":
        flat = kernel.reshape(fan_in, 64)
        np.testing.assert_allclose(flat.T @ flat, np.eye(64), atol=1e-5)
    if name != "torch":
        assert not stacked["layers"][1]["bias"].any()


def test_of_many_architectures_few_stay_compiled(trainer, trained, monkeypatch):
    monkeypatch.setattr(fit, "_MOST_COMPILED", 2)
    again = []
    for channels in (5, 6, 7, 8, 6):
        first, last = SPEC.layers
        spec = dataclasses.replace(
            SPEC, layers=(first, dataclasses.replace(last, out_channels=channels))
        )
        again.append(trainer(spec, [BASE], 16, 12, 3))
        assert fit._train._cache_size() <= 2
    np.testing.assert_array_equal(again[1]["weights"], again[4]["weights"])
    np.testing.assert_array_equal(again[1]["weights"][0], trained["weights"][0])
