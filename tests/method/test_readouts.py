"""Readouts of hidden responses: what they read and compute; that they train and travel."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import probegen_jax
from probegen_jax import settings
from probegen_jax.errors import UserError
from probegen_jax.method.model import make_model
from probegen_jax.method.readouts import scalar
from probegen_jax.networks.function import from_function
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.runs.experiment import load_run
from probegen_jax.runs.exported import export
from probegen_jax.zoo import own

SETTINGS = settings.defaults("mnist_inr").to_dict() | {"readout": "hidden"}


def count(module: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def test_parameters_of_the_whole_model_as_published():
    model = make_model(SirenSpec(), SETTINGS, 10, rngs=nnx.Rngs(params=0))
    assert count(model) == 405_988


@pytest.mark.parametrize("block_size", [None, 2])
def test_taps_are_what_a_plain_forward_hook_sees(block_size):
    torch = pytest.importorskip("torch")
    spec = dataclasses.replace(SirenSpec(hidden=(32, 24), out_dim=3), block_size=block_size)
    weights = jax.vmap(spec.init)(jax.random.split(jax.random.key(0), 3))
    probes = jax.random.uniform(jax.random.key(1), (7, 2), minval=-1)
    taps = spec.respond_with_taps(weights, probes)
    assert tuple(tap.shape[-1] for tap in taps) == (*spec.tap_sizes, spec.response_dim)
    np.testing.assert_array_equal(taps[-1], spec.respond(weights, probes))

    class Sine(torch.nn.Module):
        def forward(self, x):
            return torch.sin(30.0 * x)

    for n in range(3):
        layers, seen = [], []
        for layer in weights:
            m, k = layer["kernel"].shape[1:]
            linear = torch.nn.Linear(m, k)
            linear.weight.data = torch.tensor(np.asarray(layer["kernel"][n]).T)
            linear.bias.data = torch.tensor(np.asarray(layer["bias"][n]))
            linear.register_forward_hook(lambda *args, seen=seen: seen.append(args[2].detach()))
            layers += [linear, Sine()]
        torch.nn.Sequential(*layers[:-1])(torch.tensor(np.asarray(probes)))
        for tap, linear in zip(taps[:-1], seen[:-1], strict=True):
            np.testing.assert_allclose(tap[n] / 30.0, linear.numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(taps[-1][n], seen[-1].numpy() + 0.5, rtol=1e-5, atol=1e-5)


def encoder_and_numbers(reach: float):
    encoder = scalar.ScalarEncoder(rngs=nnx.Rngs(params=3))
    x = jax.random.uniform(jax.random.key(4), (5, 6, 32), minval=-reach, maxval=reach)
    return encoder, x


def by_every_number(encoder, x):
    return encoder.curve(x.reshape(-1)).reshape(*x.shape, -1).mean(axis=-2)


def test_the_interpolated_curve_is_the_mlp():
    encoder, x = encoder_and_numbers(scalar.REACH)
    plain = by_every_number(encoder, x)
    np.testing.assert_allclose(encoder(x), plain, atol=2e-3 * float(jnp.abs(plain).max()))


def test_its_pieces_go_on_outside_of_the_grid():
    encoder, x = encoder_and_numbers(scalar.REACH)
    far = x + 10 * scalar.REACH  # where no ReLU bends any more
    plain = by_every_number(encoder, far)
    np.testing.assert_allclose(encoder(far), plain, rtol=1e-3)


def test_its_gradients_are_those_of_the_mlp_and_exactly_of_what_it_computes():
    encoder, x = encoder_and_numbers(8.0)
    graph, params = nnx.split(encoder)
    v = jax.random.normal(jax.random.key(5), (5, 6, 2))

    def loss(way):
        def of(params, x):
            return jnp.sum(v * way(nnx.merge(graph, params), x))

        return jax.grad(of, argnums=(0, 1))(params, x)

    def by_lines(encoder, x):  # the same interpolation, differentiated by jax
        curve = encoder.curve(jnp.asarray(scalar._GRID))
        at, beyond = scalar._position(x)
        start, end = curve[at], curve[at + 1]
        return (start + beyond[..., None] * (end - start)).mean(axis=-2)

    ours = jax.tree.leaves(loss(lambda encoder, x: encoder(x)))
    same = jax.tree.leaves(loss(by_lines))
    plain = jax.tree.leaves(loss(by_every_number))
    for a, b, c in zip(ours, same, plain, strict=True):
        scale = float(jnp.abs(c).max()) + 1e-6
        np.testing.assert_allclose(a, b, atol=1e-4 * scale, rtol=1e-4)
        assert float(jnp.linalg.norm(a - c)) <= 0.05 * float(jnp.linalg.norm(c)) + 1e-5


@pytest.mark.parametrize("networks", [33, 36])  # × 128 tokens: 8 blocks and a part of one; 9
def test_tokens_made_in_blocks_are_those_of_all_at_once(networks):
    model = make_model(SirenSpec(), SETTINGS, 10, rngs=nnx.Rngs(params=0))
    graph, params = nnx.split(model.head)
    answers = 8 * jax.random.normal(jax.random.key(1), (networks, 128, 65))

    def of(platform):
        def total(params, answers):
            head = nnx.merge(graph, params)
            head.platform = platform
            return jnp.sum(jnp.sin(head(answers)))

        return jax.tree.leaves(jax.value_and_grad(total, argnums=(0, 1))(params, answers))

    for blocks, plain in zip(of("cpu"), of("gpu"), strict=True):
        np.testing.assert_allclose(blocks, plain, rtol=1e-5, atol=1e-6 * jnp.abs(plain).max())


def test_networks_without_taps_are_refused():
    weights = {"kernel": np.ones((2, 3), np.float32)}
    spec = from_function(lambda weights, probes: probes @ weights["kernel"], weights, (2,))
    with pytest.raises(UserError, match="like FunctionSpec give no hidden responses"):
        make_model(spec, SETTINGS | {"method": "vanilla"}, 1, rngs=nnx.Rngs(params=0))


@pytest.mark.slow  # trainings
def test_it_trains_resumes_predicts_and_travels(tmp_path):
    spec = SirenSpec(hidden=(8, 8))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(
        lambda leaf: rng.uniform(-0.3, 0.3, (60, *leaf.shape)).astype(np.float32), spec.abstract()
    )
    # The class is the sign of a hidden bias, which outputs hardly show.
    targets = (weights[1]["bias"][:, 0] > 0).astype(int)
    zoo = own.from_arrays("hidden", spec, weights, targets, task="classification", num_outputs=2)
    small = {"num_epochs": 3, "batch_size": 10, "head_width": 8, "head_depth": 2, "report": False}
    trained = probegen_jax.train(
        zoo, num_probes=6, workdir=tmp_path / "run", readout="hidden", **small
    )
    assert json.loads((tmp_path / "run" / "config.json").read_text())["readout"] == "hidden"
    expected = trained.predict(zoo).values_SxNxO
    export(load_run(tmp_path / "run", zoo=zoo), tmp_path / "model")
    moved = probegen_jax.load(tmp_path / "model")
    np.testing.assert_array_equal(moved.predict(zoo).values_SxNxO, expected)
    fixed = probegen_jax.train(
        zoo, "uniform", num_probes=6, workdir=tmp_path / "fixed", readout="hidden", **small
    )
    assert 0 <= fixed.result["mean"] <= 1
