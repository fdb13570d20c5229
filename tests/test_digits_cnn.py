"""The built-in CNN zoo: its training, its splits, its cache, and the whole job on a tiny one."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probegen_jax import settings, train
from probegen_jax.networks.cnn import CnnSpec
from probegen_jax.networks.conv_layer import ConvLayer
from probegen_jax.zoo import digits_cnn, fit_cnn
from probegen_jax.zoo.digits_cnn import Recipe

REPO = pathlib.Path(__file__).parent.parent
TINY = Recipe(architectures=5, networks=2, min_steps=2, max_steps=12, batch_size=8)
SPEC = CnnSpec(
    (
        ConvLayer(1, 6, 5, 1, 2, "tanh"),
        ConvLayer(6, 4, 3, 1, 1, "relu", residual=0),
        ConvLayer(4, 8, 3, 1, 1, "gelu", residual=0),
    ),
    num_classes=10,
    image_shape=(8, 8, 1),
)


@pytest.fixture(scope="module")
def digit_images():
    return digits_cnn._images(0)


def hyper(steps, learning_rate=1e-2):
    number = len(steps)
    return {
        "learning_rate": np.full(number, learning_rate, np.float32),
        "init_scale": np.linspace(1, 2, number, dtype=np.float32),
        "steps": np.asarray(steps, np.int32),
        "images": np.full(number, 600, np.int32),
    }


def fit(digit_images, steps, indices, batch_size=16, **kwargs):
    images, labels = digit_images
    return fit_cnn.train_cnns(
        SPEC, hyper(steps, **kwargs), 0, np.asarray(indices), images, labels, batch_size=batch_size
    )


@pytest.fixture(scope="module")
def fitted(digit_images):
    return fit(digit_images, [0, 40, 250], [0, 1, 2])


def weights_of(seed):
    start = fit_cnn._initial(SPEC, np.random.default_rng(seed))
    return jax.tree.map(jnp.asarray, fit_cnn.unravel(SPEC, start[None])[0])


def test_patches_compute_what_convolutions_do():
    weights = weights_of(0)
    images = np.random.default_rng(1).normal(size=(5, 8, 8, 1)).astype(np.float32)
    stacked = jax.tree.map(lambda leaf: leaf[None], weights)
    ours = jax.jit(SPEC.respond)(stacked, images)[0]
    np.testing.assert_allclose(ours, jax.jit(SPEC.apply)(weights, images), atol=1e-5)


def test_accuracies_are_real_and_grow_with_training(digit_images, fitted):
    (_, test_images), (_, test_labels) = digit_images
    vectors, accuracies = fitted
    answer = jax.jit(SPEC.apply)
    for weights, accuracy in zip(fit_cnn.unravel(SPEC, vectors), accuracies, strict=True):
        guesses = np.argmax(answer(weights, test_images), axis=-1)
        assert np.mean(guesses == test_labels) == pytest.approx(accuracy, abs=2e-3)
    assert accuracies[0] < 0.3
    assert accuracies[0] < accuracies[1] < accuracies[2]
    assert accuracies[2] > 0.6


def test_the_untrained_network_has_its_initial_weights(fitted):
    start = fit_cnn._initial(SPEC, np.random.default_rng([0, 0]))
    np.testing.assert_array_equal(fitted[0][0], start)
    layer = fit_cnn.unravel(SPEC, start[None])[0]["layers"][1]
    assert layer["kernel"].shape == (3, 3, 6, 4)
    assert 0.9 / np.sqrt(54) < np.abs(layer["kernel"]).max() <= 1 / np.sqrt(54)


def test_a_network_depends_on_nothing_but_its_index_and_hyper_parameters(digit_images, fitted):
    images, labels = digit_images
    alone = jax.tree.map(lambda values: values[1:2], hyper([0, 40, 250]))
    vectors, accuracies = fit_cnn.train_cnns(
        SPEC, alone, 0, np.array([1]), images, labels, batch_size=16
    )
    np.testing.assert_allclose(vectors[0], fitted[0][1], atol=1e-4)
    assert accuracies[0] == pytest.approx(fitted[1][1], abs=2e-3)


def test_side_by_side_is_the_same_as_one_after_the_other(digit_images, monkeypatch):
    one_by_one = fit(digit_images, [0, 3, 6], [0, 1, 2])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    together = fit(digit_images, [0, 3, 6], [0, 1, 2])
    np.testing.assert_allclose(one_by_one[0], together[0], atol=1e-4)


def test_architectures_differ_and_follow_from_the_seed():
    specs = digits_cnn.sample_specs(Recipe())
    assert len(set(specs)) == len(specs) == Recipe().architectures
    assert specs == digits_cnn.sample_specs(Recipe())
    assert specs != digits_cnn.sample_specs(Recipe(seed=1))
    assert any(layer.residual >= 0 for spec in specs for layer in spec.layers)
    used = {layer.activation for spec in specs for layer in spec.layers}
    assert used == {"relu", "gelu", "tanh", "leaky_relu", "sigmoid"}


def test_no_architecture_is_in_two_splits():
    recipe = Recipe()
    splits = digits_cnn._splits(recipe)
    architectures = {name: set(rows // recipe.networks) for name, rows in splits.items()}
    assert sorted(np.concatenate(list(splits.values()))) == list(
        range(recipe.architectures * recipe.networks)
    )
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not architectures[a] & architectures[b]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def zoo(folder):
    return digits_cnn.load(folder, TINY)


def test_zoo_holds_every_network_and_answers_as_each_does(zoo):
    assert len(zoo) == 10
    assert zoo.task == "regression"
    assert zoo.targets_N.dtype == np.float32
    assert zoo.targets_N.min() >= 0
    assert zoo.targets_N.max() <= 1
    assert zoo.spec.probe_shape == (8, 8, 1)
    assert zoo.spec.response_dim == 10


def test_the_cache_is_used_and_the_recipe_is_part_of_its_key(zoo, folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(fit_cnn, "train_cnns", refuse)
        again = digits_cnn.load(folder, TINY)
        with pytest.raises(AssertionError, match="trained again"):
            digits_cnn.load(folder, Recipe(architectures=5, networks=3))
    np.testing.assert_array_equal(again.targets_N, zoo.targets_N)
    for a, b in zip(jax.tree.leaves(again.weights), jax.tree.leaves(zoo.weights), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(list(folder.iterdir())) == 1


def test_a_corrupt_cache_is_built_again(zoo, folder):
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="is corrupt"):
        again = digits_cnn.load(folder, TINY)
    np.testing.assert_array_equal(again.targets_N, zoo.targets_N)


@pytest.mark.parametrize("method", ["probegen", "vanilla", "dead_leaves"])
def test_the_whole_job(method, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(digits_cnn, "Recipe", functools.partial(Recipe, **vars(TINY)))
    small = {"num_epochs": 2, "num_seeds": 2, "batch_size": 4, "eval_every": 2, "head_width": 8}
    values = settings.parse(
        [
            "train",
            f"--config={REPO}/configs/digits_cnn.py:{method},3",
            f"--config.data_dir={folder}",
            f"--config.report={method == 'probegen'}",
            *(f"--config.{key}={value}" for key, value in small.items()),
        ],
        "",
    )
    result = train.train(values.config, str(tmp_path / method))
    assert result == json.loads((tmp_path / method / "result.json").read_text())
    assert (result["dataset"], result["metric"]) == ("digits_cnn", "kendall_tau")
    assert (result["method"], result["num_probes"]) == (method, 3)
    assert all(-1 <= seed["last"]["test"] <= 1 for seed in result["seeds"])
    assert (tmp_path / method / "report.html").exists() == (method == "probegen")
