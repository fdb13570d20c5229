import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probegen_jax.errors import UserError
from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.cnn import published
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer import ConvLayer
from probegen_jax.networks.cnn.state_dict import from_torch
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.mixed_cnn import mixed, tables
from probegen_jax.zoo.zoo import Zoo

IMAGE, CLASSES, BATCH, PROBES, ROWS, DEPTH = (6, 6, 3), 4, 4, 3, 16, 4


def make_spec(channels, kernels, activations, residuals):
    layers = [
        ConvLayer(m, n, k, 1, k // 2, activation, residual)
        for (m, n), k, activation, residual in zip(
            itertools.pairwise([3, *channels]), kernels, activations, residuals, strict=True
        )
    ]
    return CnnSpec(tuple(layers), num_classes=CLASSES, image_shape=IMAGE)


@st.composite
def architectures(draw):
    """Arguments of `make_spec`."""
    depth = draw(st.integers(1, DEPTH))
    lists = [
        draw(st.lists(st.sampled_from(choices), min_size=depth, max_size=depth))
        for choices in ((4, 8), (3, 5), sorted(ACTIVATIONS))
    ]
    residuals = [draw(st.integers(-1, layer - 1)) for layer in range(depth)]
    return (*lists, residuals)


# Every kind of layer that `architectures` can ask for, so that all of its mixtures share a program.
EVERY_KIND = [
    make_spec([m, n], [k, k], ["relu"] * 2, [-1, -1])
    for m in (4, 8)
    for n in (4, 8)
    for k in (3, 5)
]


def plain_init(spec, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), spec.abstract()
    )


def pack(zoo_spec, specs, networks):
    """Packed with tables of one size, whatever the mixture needs of each kind."""
    names = [str(n) for n in range(len(specs))]
    packed = tables.pack(zoo_spec.kinds, zoo_spec.max_layers, specs, networks, names)
    padded = tuple(
        {
            name: np.pad(leaf, [(0, ROWS - len(leaf))] + [(0, 0)] * (leaf.ndim - 1))
            for name, leaf in table.items()
        }
        for table in packed["tables"]
    )
    return jax.tree.map(jnp.asarray, {**packed, "tables": padded})


@pytest.fixture(scope="module")
def compiled():
    """One compiled forward and backward pass for any mixture, and how often it was traced."""
    zoo_spec, _ = mixed.build(EVERY_KIND, [plain_init(spec, 0) for spec in EVERY_KIND])
    zoo_spec = dataclasses.replace(zoo_spec, max_layers=DEPTH)
    assert isinstance(zoo_spec, NetworkSpec)
    traces = []

    @jax.jit
    def both(weights, probes, cotangents):
        traces.append(1)
        responses, back = jax.vjp(lambda p: zoo_spec.respond(weights, p), probes)
        return responses, back(cotangents)[0]

    return zoo_spec, both, traces


def torch_reference(specs, networks, probes, cotangents):
    import torch
    from plain_torch import PlainCnn

    x = torch.tensor(probes.transpose(0, 3, 1, 2), requires_grad=True)
    outputs = []
    for spec, weights in zip(specs, networks, strict=True):
        module = PlainCnn(spec.layers, CLASSES)
        state = {"fc.weight": weights["head"]["kernel"].T, "fc.bias": weights["head"]["bias"]}
        for i, layer in enumerate(weights["layers"]):
            state[f"layers.{i}.weight"] = layer["kernel"].transpose(3, 2, 0, 1)
            state[f"layers.{i}.bias"] = layer["bias"]
        module.load_state_dict({name: torch.tensor(a.copy()) for name, a in state.items()})
        outputs.append(module(x))
    responses = torch.stack(outputs)
    (responses * torch.tensor(cotangents)).sum().backward()
    return responses.detach().numpy(), x.grad.numpy().transpose(0, 2, 3, 1)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=st.lists(architectures(), min_size=BATCH, max_size=BATCH), seed=st.integers(0, 999))
def test_any_mixture_equals_a_loop_over_torch_modules(compiled, drawn, seed):
    pytest.importorskip("torch")
    zoo_spec, both, traces = compiled
    specs = [make_spec(*lists) for lists in drawn]
    networks = [plain_init(spec, seed + n) for n, spec in enumerate(specs)]
    rng = np.random.default_rng(seed)
    probes = rng.standard_normal((PROBES, *IMAGE), np.float32)
    cotangents = rng.standard_normal((BATCH, PROBES, CLASSES), np.float32)
    ours = both(pack(zoo_spec, specs, networks), probes, cotangents)
    expected = torch_reference(specs, networks, probes, cotangents)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * max(1, np.abs(b).max()))
    # Another mixture, order or architecture is other data for the same program.
    assert len(traces) == 1


def test_a_mixture_equals_a_loop_over_its_networks(compiled):
    zoo_spec, both, _ = compiled
    specs = [
        make_spec([8, 4, 8, 8], [3, 5, 3, 3], ["relu", "gelu", "tanh", "sine"], [-1, 0, 0, 2]),
        make_spec([4], [5], ["sigmoid"], [-1]),
        make_spec([4, 8, 4], [3, 3, 5], ["leaky_relu", "none", "relu"], [-1, -1, 1]),
        make_spec([8, 8], [5, 3], ["gelu", "gelu"], [-1, 0]),
    ]
    networks = [plain_init(spec, n) for n, spec in enumerate(specs)]
    probes = jax.random.normal(jax.random.key(0), (PROBES, *IMAGE))
    cotangents = jax.random.normal(jax.random.key(1), (BATCH, PROBES, CLASSES))

    @jax.jit
    def loop(networks, probes, cotangents):
        def apply_all(probes):
            pairs = zip(specs, networks, strict=True)
            return jnp.stack([spec.apply(weights, probes) for spec, weights in pairs])

        responses, back = jax.vjp(apply_all, probes)
        return responses, back(cotangents)[0]

    ours = both(pack(zoo_spec, specs, networks), probes, cotangents)
    for a, b in zip(ours, loop(networks, probes, cotangents), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # compiles for long
def test_bfloat16_is_close_and_leaves_float32_outside(compiled):
    zoo_spec, _, _ = compiled
    specs = [
        make_spec([8, 4], [3, 5], ["relu", "gelu"], [-1, 0]),
        make_spec([4], [5], ["tanh"], [-1]),
    ]
    weights = pack(zoo_spec, specs, [plain_init(spec, n) for n, spec in enumerate(specs)])
    probes = jax.random.normal(jax.random.key(0), (PROBES, *IMAGE))

    def both(spec):
        responses, back = jax.vjp(lambda p: spec.respond(weights, p), probes)
        return responses, back(jnp.ones_like(responses))[0]

    exact = jax.jit(lambda: both(zoo_spec))()
    rounded = jax.jit(lambda: both(dataclasses.replace(zoo_spec, dtype="bfloat16")))()
    for a, b in zip(exact, rounded, strict=True):
        assert b.dtype == jnp.float32
        difference = float(jnp.linalg.norm(a - b) / jnp.linalg.norm(a))
        assert 1e-5 < difference < 0.02  # bfloat16 has 8 bits


def test_taking_rows_and_another_order_trace_nothing_new(compiled):
    zoo_spec, both, traces = compiled
    specs = [EVERY_KIND[n] for n in (0, 3, 5, 6, 7, 1)]
    zoo = pack(zoo_spec, specs, [plain_init(spec, n) for n, spec in enumerate(specs)])
    probes = jax.random.normal(jax.random.key(0), (PROBES, *IMAGE))
    cotangents = jnp.ones((BATCH, PROBES, CLASSES))
    first, _ = both(zoo_spec.take(zoo, jnp.asarray([0, 1, 2, 3])), probes, cotangents)
    again, _ = both(zoo_spec.take(zoo, jnp.asarray([3, 5, 1, 0])), probes, cotangents)
    np.testing.assert_allclose(
        again[jnp.asarray([3, 2, 0])], first[jnp.asarray([0, 1, 3])], rtol=1e-6
    )
    assert len(traces) == 1


def test_networks_that_cannot_share_a_zoo_are_named():
    spec = make_spec([4], [3], ["relu"], [-1])
    other = CnnSpec(spec.layers, num_classes=5, image_shape=IMAGE)
    with pytest.raises(UserError, match="network b: num_classes is 5, but the zoo's is 4"):
        mixed.build([spec, other], [plain_init(spec, 0), plain_init(other, 0)], ["a", "b"])
    with pytest.raises(UserError, match="at least one network"):
        mixed.build([], [])


def test_wild_park_checkpoints_answer_as_the_original_sampler_says(shared):
    pytest.importorskip("torch")
    pytest.importorskip("omegaconf")
    from probegen_jax.zoo.files import torch_files

    folder = shared / "data" / "wild_park_format"
    expected = dict(np.load(folder / "expected.npz"))
    probes = jnp.asarray(expected.pop("probes").transpose(0, 2, 3, 1))
    files = sorted(folder.glob("run_*/checkpoint_*/checkpoint.pt"))
    loaded = [torch_files.load_cnn(path, str(path)) for path in files]
    specs = [published.wild_park(file.config) for file in loaded]
    assert any(layer.residual >= 0 for spec in specs for layer in spec.layers)
    zoo_spec, weights = mixed.build(specs, [from_torch(file.state) for file in loaded])
    responses = jax.jit(zoo_spec.respond)(jax.tree.map(jnp.asarray, weights), probes)
    assert len(files) == len(expected) == 6
    for path, found in zip(files, responses, strict=True):
        name = f"responses/{path.parent.parent.name.removeprefix('run_')}"
        error = np.abs(found - expected[name]).max() / np.abs(expected[name]).max()
        assert error < 1e-5, name


def test_costs_are_the_multiplications_of_a_networks_layers():
    # So many channels that no tiles are made.
    layers = (
        ConvLayer(3, 64, 3, 1, 1, "relu"),
        ConvLayer(64, 64, 3, 2, 1, "relu"),
        ConvLayer(64, 64, 3, 1, 1, "relu"),
    )
    specs = [CnnSpec(layers[:depth], CLASSES, IMAGE) for depth in (2, 1, 3)]
    spec, weights = mixed.build(specs, [plain_init(each, 0) for each in specs])
    # Pixels × kernel × channels, forwards and back; of three channels a fourth is stored.
    first = 2 * (6 * 6) * 9 * 4 * 64
    # Back from 3×3 pixels, each 2×2 pixels that come out see 2×2 that go in.
    second = (3 * 3) * (9 + 2 * 2 * 2 * 2) * 64 * 64
    third = 2 * (3 * 3) * 9 * 64 * 64
    costs_N = spec.costs(weights)
    assert costs_N.dtype == np.int64
    assert costs_N.tolist() == [first + second, first, first + second + third]

    def zoo(spec, weights):
        splits = {name: np.array([row]) for row, name in enumerate(("train", "val", "test"))}
        return Zoo("small", spec, weights, np.zeros(3, np.float32), splits, "regression", 1)

    # It is what zoos are laid out by; of one architecture there is nothing to tell.
    assert zoo(spec, weights).costs().tolist() == costs_N.tolist()
    assert zoo(specs[0], None).costs() is None
