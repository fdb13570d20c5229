import jax
import jax.numpy as jnp
import numpy as np
import published_files
import pytest

pytest.importorskip("probegen_jax.networks.mixed_cnn.mixed")

from probegen_jax.networks.cnn import published
from probegen_jax.networks.cnn.state_dict import from_torch
from probegen_jax.zoo.prepared import cnn_zoos
from probegen_jax.zoo.prepared.builders import Request
from probegen_jax.zoo.published import loading
from probegen_jax.zoo.published.cifar10_wild_park import run_of


@pytest.mark.parametrize("fidelity", ["faithful", "official"])
def test_cifar10_gs_runs_as_its_own_arrays_say(fidelity, tmp_path):
    weights, metrics = published_files.cifar10_gs(tmp_path, 180)
    zoo = loading.load(
        "cifar10_gs", tmp_path / "data", fidelity=fidelity, request=Request(manual_dir=tmp_path)
    )
    assert len(zoo) == 20
    images = jnp.asarray(np.random.default_rng(0).standard_normal((3, 32, 32, 1)), jnp.float32)
    for row in range(len(zoo)):
        score = zoo.targets_N[row]
        (source,) = (
            i for i, line in enumerate(metrics) if np.float32(line["test_accuracy"]) == score
        )
        one = jax.tree.map(lambda leaf, row=row: jnp.asarray(leaf[row]), zoo.weights)
        x = images
        for start, bias_end, end, shape in (
            (0, 16, 160, (3, 3, 1, 16)),
            (160, 176, 2480, (3, 3, 16, 16)),
            (2480, 2496, 4800, (3, 3, 16, 16)),
        ):
            padding = [(0, 0)] * 2 if fidelity == "faithful" else [(1, 1)] * 2
            kernel = jnp.asarray(weights[source, bias_end:end].reshape(shape))
            x = jax.lax.conv_general_dilated(
                x, kernel, (2, 2), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = x + weights[source, start:bias_end].reshape(1, 1, 1, -1)
            x = {"relu": jax.nn.relu, "tanh": jnp.tanh}[metrics[source]["config.activation"]](x)
        head = weights[source, 4810:].reshape(16, 10)
        logits = x.mean((1, 2)) @ head + weights[source, None, 4800:4810]
        np.testing.assert_allclose(zoo.spec.apply(one, images), logits, rtol=1e-4, atol=1e-4)
    assert "layers.0.kernel" in zoo.describe()


def test_a_small_cnn_zoo_with_selus_is_loaded_and_run():
    names, rng = ["selu", "relu", "selu"], np.random.default_rng(0)
    columns = {
        "activation": np.char.encode(names),
        "weights": rng.normal(0, 0.2, (3, 4970)).astype(np.float32),
        "score": np.linspace(0, 1, 3, dtype=np.float32),
    }
    rows = {split: np.array([n], np.int32) for n, split in enumerate(("train", "val", "test"))}
    zoo = cnn_zoos.small_cnn_zoo("cifar10_gs", 32, columns, rows, "faithful")
    assert [zoo.spec.activations[n] for n in zoo.weights["activation"]] == names
    assert "  activations: selu 2, relu 1, tanh 0\n" in zoo.describe()
    images = jnp.asarray(rng.standard_normal((2, 32, 32, 1)), jnp.float32)
    found = zoo.spec.respond(jax.tree.map(jnp.asarray, zoo.weights), images)
    for n, name in enumerate(names):
        plain = published.small_cnn_zoo(name)
        expected = plain.apply(zoo.spec.take(zoo.weights, n), images)
        np.testing.assert_allclose(found[n], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fidelity", ["faithful", "official"])
def test_wild_park_runs_as_the_checkpoints_say(fidelity, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("omegaconf")
    networks = published_files.cifar10_wild_park(tmp_path, runs=4, checkpoints=2)
    zoo = loading.load(
        "cifar10_wild_park",
        tmp_path / "data",
        fidelity=fidelity,
        request=Request(manual_dir=tmp_path),
    )
    assert len(zoo) == len(networks) == 8
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32, 32, 3)), jnp.float32)
    found = jax.jit(zoo.spec.respond)(zoo.spec.take(zoo.weights, jnp.arange(len(zoo))), images)
    runs: dict[int, set[str]] = {}
    for name, given in networks.items():
        (row,) = np.flatnonzero(zoo.targets_N == np.float32(given["last_result"]["test/acc"]))
        runs.setdefault(int(zoo.runs_N[row]), set()).add(run_of(name))
        spec = published.wild_park(given["config"], fidelity)
        expected = spec.apply(from_torch(given["model"]), images)
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-4)
    assert all(len(names) == 1 for names in runs.values())
    assert len(runs) == 4
    assert "from 4 training runs" in zoo.describe()
    configs = [given["config"] for given in networks.values()]
    census = zoo.spec.census(zoo.weights)
    depths = [config["n_layers"] for config in configs]
    expected = {f"{depth} layers": depths.count(depth) for depth in sorted(set(depths))}
    assert census["4 architectures"] == expected
    used = [name for config in configs for name in config["activation"][: config["n_layers"]]]
    assert census["activations of layers"] == {name: used.count(name) for name in set(used)}
