"""The PyTorch baseline: it is the method (golden cases), and it reads our zoos as they are."""

import json
import types

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other

from test_golden import load, relative_error
from test_golden_cnn import CASES, Case

from benchmarks import torch_loop, torch_networks
from probegen_jax import errors, settings
from probegen_jax.networks.cnn import published
from probegen_jax.networks.mixed_cnn import mixed
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.zoo.zoo import Zoo

INR_CASES = ("inr_deep_linear", "inr_vanilla")


def zoo_of(spec, weights, targets, task, num_outputs):
    """All networks for training but two: a zoo needs every split."""
    rows = np.arange(len(targets), dtype=np.int32)
    splits = {"train": rows[:-2], "val": rows[-2:-1], "test": rows[-1:]}
    weights = jax.tree.map(np.asarray, weights)
    return Zoo("golden", spec, weights, targets, splits, task, num_outputs)


def golden(case, shared):
    """A golden case as config, zoo, official states by moment, and what was measured."""
    meta = json.loads((shared / "golden" / case / "meta.json").read_text())
    if case in INR_CASES:
        parts, weights = load(case)
        expected = parts["expected"]
        targets = expected["target"].astype(np.int32)
        zoo = zoo_of(SirenSpec(), weights, targets, "classification", 10)
        states, depth = {which: parts[which] for which in ("initial", "final")}, 2
    else:
        loaded = Case(shared / "golden" / case)
        states, expected = loaded.states, loaded.expected
        targets = expected["target"].ravel().astype(np.float32)
        zoo = zoo_of(loaded.spec, loaded.weights, targets, "regression", 1)
        depth = int(meta["generator"].rsplit("_", 1)[1])
    config = types.SimpleNamespace(
        method="vanilla" if case.endswith("vanilla") else "probegen",
        num_probes=meta["n_probes"],
        latent_dim=32,
        generator_depth=depth,
        generator_width=16,
        head_width=meta["d_hidden"],
        head_depth=meta["head_layers"],
        batch_size=len(targets) // 2,
    )
    return config, zoo, states, expected, meta


@pytest.mark.parametrize("case", (*INR_CASES, *CASES))
def test_golden_training(case, shared):
    """From `initial.pth`, the same losses and the same predictions after twenty steps."""
    config, zoo, states, expected, meta = golden(case, shared)
    model = torch_loop.make_model(config, zoo, seed=0)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in states["initial"].items()}
    model.load_state_dict(tensors, strict=True)
    assert list(model.state_dict()) == list(states["initial"])
    optimizer, scheduler = torch_loop.make_optimizer(model, meta["lr"], meta["steps"])
    networks = torch_networks.make_networks(zoo)
    assert all(weight.requires_grad for net in networks for weight in net.parameters())
    targets = torch.from_numpy(zoo.targets_N)
    targets = targets.long() if zoo.task == "classification" else targets[:, None]
    half, losses = len(networks) // 2, []
    for step in range(meta["steps"]):
        rows = slice(half) if step % 2 == 0 else slice(half, None)
        loss = torch_loop.train_step(
            model,
            optimizer,
            scheduler,
            networks[rows],
            targets[rows],
            torch_loop.loss_of(zoo.task),
        )
        losses.append(loss)
    np.testing.assert_allclose(losses, expected["train_losses"], rtol=1e-5)
    with torch.no_grad():
        outputs = model(networks, torch_networks.respond_loop).numpy()
    assert relative_error(outputs, expected["final_predictions"].reshape(outputs.shape)) < 1e-4


def stacked(spec, networks):
    weights = jax.tree.map(lambda *leaves: np.stack(leaves), *networks)
    return spec, weights, [(spec, network) for network in networks]


def sirens():
    spec = SirenSpec(hidden=(8, 8, 8), out_dim=3, w0=20.0)
    return stacked(spec, [spec.init(jax.random.key(number)) for number in range(4)])


def small_cnns():
    spec = published.small_cnn_zoo()
    networks = [spec.init(jax.random.key(number)) for number in range(4)]
    for number, network in enumerate(networks):
        network["activation"] = np.int32(number % 2)
    return stacked(spec, networks)


def mixture():
    members = []
    for number, channels in enumerate(((3, 4, 8), (3, 8, 8, 4), (3, 8, 8, 4), (3, 4, 8))):
        depth = len(channels) - 1
        config = {
            "channels": channels,
            "kernel_size": [3, 5, 3][:depth],
            "stride": [1] * depth,
            "padding": [1, 2, 1][:depth],
            "activation": ["gelu", "sigmoid", "leaky_relu"][:depth],
            "residual": [-1, 0, -1][:depth],
        }
        spec = published.wild_park(config, "faithful")
        members.append((spec, jax.tree.map(np.asarray, spec.init(jax.random.key(number)))))
    return *mixed.build(*zip(*members, strict=True)), members


@pytest.mark.parametrize("make", (sirens, small_cnns, mixture))
@pytest.mark.parametrize("lean", (False, True))
def test_modules_answer_as_ours_and_stacks_as_modules(make, lean):
    spec, weights, members = make()
    zoo = zoo_of(spec, weights, np.zeros(4, np.float32), "regression", 1)
    probes = np.random.default_rng(0).normal(size=(3, *spec.probe_shape)).astype(np.float32)
    ours = np.stack([spec.apply(network, jax.numpy.asarray(probes)) for spec, network in members])
    shown = torch.from_numpy(probes if probes.ndim == 2 else probes.transpose(0, 3, 1, 2).copy())
    rows = np.array([3, 0, 2])
    networks = torch_networks.make_networks(zoo, rows, lean)
    assert {weight.requires_grad for net in networks for weight in net.parameters()} == {not lean}
    theirs = torch_networks.respond_loop(networks, shown)
    assert theirs.requires_grad is not lean
    assert relative_error(theirs.detach(), ours[rows]) < 1e-5
    at_once = torch_networks.StackedNetworks(zoo, rows, lean).respond([2, 0], shown)
    assert at_once.requires_grad is not lean
    torch.testing.assert_close(at_once, theirs[[2, 0]], rtol=1e-5, atol=1e-6)


def test_compiling_a_mixture_is_refused():
    spec, weights, _ = mixture()
    zoo = zoo_of(spec, weights, np.zeros(4, np.float32), "regression", 1)
    with pytest.raises(errors.UserError, match=r"one architecture, and golden has 2"):
        torch_networks.compiled_loop(zoo)


@pytest.mark.parametrize("arguments", ("probegen --variant=vmap", "uniform --lean"))
def test_the_command_learns_and_says_how(arguments, digits_dir, capsys):
    method, option = arguments.split()
    torch_loop.main(
        [
            "torch_loop",
            f"--config=configs/digits.py:{method},32",
            f"--config.data_dir={digits_dir}",
            "--config.num_epochs=3",
            "--seeds=2",
            "--limit=640",
            option,
        ]
    )
    result = json.loads(capsys.readouterr().out)
    assert (result["method"], result["train_networks"]) == (method, 640)
    assert [seed["seed"] for seed in result["seeds"]] == [0, 1]
    assert result["mean"] == pytest.approx(np.mean([seed["test"] for seed in result["seeds"]]))
    assert result["mean"] > 0.15  # chance is 0.1
    assert result["seconds_per_epoch"] > 0


def test_an_unsuitable_method_is_told(digits_dir):
    argv = ["x", "--config=configs/digits.py:dead_leaves", f"--config.data_dir={digits_dir}"]
    config = settings.parse(argv, "").config
    spec, weights, _ = sirens()
    zoo = zoo_of(spec, weights, np.zeros(4, np.int32), "classification", 10)
    with pytest.raises(errors.UserError, match=r"'dead_leaves' is not for the networks of golden"):
        torch_loop.make_model(config, zoo, 0)
