"""The built-in zoo of ResNets: how its networks are trained, its splits, its cache."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPO
from small_run import stopped_at

import probegen_jax
from probegen_jax import settings, train
from probegen_jax.factory.builtin import digits_subsets
from probegen_jax.factory.resnet import fit
from probegen_jax.networks.resnet.resnet import ResNetSpec
from probegen_jax.zoo import flat_weights

SPEC = dataclasses.replace(digits_subsets.SPEC, widths=(4, 6), stem_width=4)
RECIPE = fit.Recipe(steps=12, batch_size=16, learning_rate=1e-2)


def scaled(seed=0):
    """A network before it is folded, its scales and biases not those of the start."""
    weights = fit._on_layers(fit._with_scale, SPEC.init(jax.random.key(seed)))
    leaves, tree = jax.tree.flatten(weights)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    moved = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def test_a_folded_network_answers_as_the_normalised_one():
    """By the statistics of a batch, on that batch."""
    weights, images = scaled(), jax.random.normal(jax.random.key(9), (7, 8, 8, 1))
    patches = fit.forward.patches(images, SPEC.stem)
    logits, seen = jax.jit(fit._normalised, static_argnums=0)(SPEC, weights, patches)
    folded = fit._folded(weights, seen)
    apply = jax.jit(SPEC.apply)
    assert jax.tree.structure(folded) == jax.tree.structure(SPEC.abstract())
    np.testing.assert_allclose(apply(folded, images), logits, rtol=1e-4, atol=1e-4)
    assert not np.allclose(apply(folded, 2 * images), logits, atol=1e-2)


@pytest.mark.slow
def test_normalisation_is_torchs():
    torch = pytest.importorskip("torch")
    spec = ResNetSpec((4,), (1,), stem_width=3, num_classes=2, image_shape=(5, 5, 1))
    weights = fit._on_layers(fit._with_scale, spec.init(jax.random.key(0)))
    images = np.random.default_rng(0).standard_normal((6, 5, 5, 1)).astype(np.float32)
    _, seen = fit._normalised(spec, weights, fit.forward.patches(jnp.asarray(images), spec.stem))
    kernel = torch.tensor(np.asarray(weights["stem"]["kernel"]).transpose(3, 2, 0, 1))
    norm = torch.nn.BatchNorm2d(3, momentum=None)  # then the running mean is what was seen
    norm(torch.nn.functional.conv2d(torch.tensor(images.transpose(0, 3, 1, 2)), kernel, padding=1))
    place = [layer is weights["stem"] for layer in fit._layers(weights)].index(True)
    mean, variance = seen[place]
    count = 6 * 5 * 5
    np.testing.assert_allclose(mean, norm.running_mean, atol=1e-6)
    np.testing.assert_allclose(variance * count / (count - 1), norm.running_var, rtol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def zoo(folder):
    """Twelve networks, in parts of four."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits_subsets, "_PART", 4)
        return digits_subsets.load(folder, 12, SPEC, RECIPE)


def load(folder, monkeypatch, number=12, **changes):
    monkeypatch.setattr(digits_subsets, "_PART", 4)
    return digits_subsets.load(folder, number, SPEC, RECIPE, **changes)


def test_the_zoo(zoo):
    assert (len(zoo), zoo.task, zoo.num_outputs, zoo.spec) == (12, "multilabel", 10, SPEC)
    assert zoo.targets_N.sum(axis=1).tolist() == [5] * 12
    assert len({row.tobytes() for row in zoo.targets_N}) == 12
    assert {name: len(rows) for name, rows in zoo.splits.items()} == {
        "train": 9, "val": 1, "test": 2
    }  # fmt: skip
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(zoo.weights))


def test_a_killed_build_goes_on_and_ends_with_the_same_networks(zoo, folder, tmp_path, monkeypatch):
    begun, whole = [], fit.train

    def dies(*args):
        begun.append(len(args[2]))
        if len(begun) > 1:
            raise KeyboardInterrupt
        return whole(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fit, "train", dies)
        load(tmp_path, patch)
    assert len(list(tmp_path.glob("*.npz"))) == 1
    again = []
    with monkeypatch.context() as patch:
        patch.setattr(fit, "train", lambda *args: again.append(len(args[2])) or whole(*args))
        found = load(tmp_path, patch)
    assert again == [4, 4]
    jax.tree.map(np.testing.assert_array_equal, found.weights, zoo.weights)


def test_the_cache_is_used_and_the_recipe_is_part_of_its_key(zoo, folder, monkeypatch):
    def refuse(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(fit, "train", refuse)
    found = load(folder, monkeypatch)
    jax.tree.map(np.testing.assert_array_equal, found.weights, zoo.weights)
    longer = fit.Recipe(steps=13, batch_size=16, learning_rate=1e-2)
    with pytest.raises(AssertionError, match="trained again"):
        digits_subsets.load(folder, 12, SPEC, longer)


def test_no_set_of_digits_is_in_two_splits(tmp_path, monkeypatch):
    size = flat_weights.size(SPEC.abstract())

    def untrained(*args):
        return np.zeros((len(args[2]), size), np.float32), np.zeros(len(args[2]))

    monkeypatch.setattr(fit, "train", untrained)
    found = digits_subsets.load(tmp_path, 600, SPEC, RECIPE)
    sets = {
        split: {found.targets_N[row].tobytes() for row in rows}
        for split, rows in found.splits.items()
    }
    assert [len(sets[split]) for split in ("train", "val", "test")] == [177, 25, 50]
    assert len(set.union(*sets.values())) == 252  # all there are
    assert sorted(np.concatenate(list(found.splits.values()))) == list(range(600))


@pytest.mark.slow
@pytest.mark.optimized
def test_networks_learn_their_digits_and_no_others():
    images = digits_subsets.digit_images()
    pixels = digits_subsets.PIXELS.normalise(images.train.images)
    labels = images.train.labels.astype(np.int32)
    outputs = np.array([[0, 1, -1, 2, -1, -1, 3, 4, -1, -1], [-1, -1, 0, 1, 2, 3, 4, -1, -1, -1]])
    rows = [
        digits_subsets._batches(
            np.flatnonzero(of[labels[:1000]] >= 0), digits_subsets.RECIPE, np.random.default_rng(n)
        )
        for n, of in enumerate(outputs)
    ]
    weights, accuracy = fit.train(
        digits_subsets.SPEC, digits_subsets.RECIPE, jax.random.split(jax.random.key(0), 2),
        np.stack(rows), outputs.astype(np.int32), pixels, labels, 1000,
    )  # fmt: skip
    assert accuracy.min() > 0.9
    spec = digits_subsets.SPEC
    for vector, of, told in zip(np.asarray(weights), outputs, accuracy.tolist(), strict=True):
        network = flat_weights.unflatten_one(vector, spec.abstract())
        chosen = np.asarray(spec.apply(network, jnp.asarray(pixels[1000:]))).argmax(axis=-1)
        wanted = of[labels[1000:]]
        assert np.mean((chosen == wanted)[wanted >= 0]) == pytest.approx(told)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["probegen", "vanilla", "dead_leaves"])
def test_the_whole_job(method, zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(digits_subsets, "load", lambda data_dir: zoo)
    small = {"num_epochs": 2, "num_seeds": 2, "batch_size": 4, "eval_every": 2, "head_width": 8}
    values = settings.parse(
        [
            "train",
            f"--config={REPO}/configs/digits_subsets.py:{method},3",
            f"--config.report={method == 'probegen'}",
            *(f"--config.{key}={value}" for key, value in small.items()),
        ],
        "",
    )
    result = train.train(values.config, str(tmp_path / method))
    assert result == json.loads((tmp_path / method / "result.json").read_text())
    assert (result["dataset"], result["metric"]) == ("digits_subsets", "mean_average_precision")
    assert all(0 <= seed["last"]["test"] <= 1 for seed in result["seeds"])
    assert (tmp_path / method / "report.html").exists() == (method == "probegen")


@pytest.mark.slow
def test_hidden_maps_train_resume_stream_and_predict(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(digits_subsets, "load", lambda data_dir: zoo)
    small = {
        "num_epochs": 2, "num_seeds": 2, "num_probes": 4, "batch_size": 4, "eval_every": 2,
        "checkpoint_every": 2, "head_width": 8, "report": False, "readout": "hidden",
    }  # fmt: skip

    def run(name, **changes):
        flags = [f"--config.{key}={value}" for key, value in (small | changes).items()]
        config = f"--config={REPO}/configs/digits_subsets.py:vanilla"
        train.train(settings.parse(["train", config, *flags], "").config, str(tmp_path / name))
        return probegen_jax.load(tmp_path / name)

    whole = run("whole")
    assert np.abs(whole.head_params["correction"]).max() > 0
    with stopped_at(2):
        run("parts")
    parts, streamed = run("parts"), run("streamed", **{"data.mode": "stream"})
    jax.tree.map(np.testing.assert_array_equal, parts.head_params, whole.head_params)
    expected = whole.predict(zoo).values_SxNxO
    assert expected.shape == (2, 12, 10) and expected.std() > 0
    np.testing.assert_array_equal(parts.predict(zoo).values_SxNxO, expected)
    np.testing.assert_allclose(streamed.predict(zoo).values_SxNxO, expected, atol=1e-5)
