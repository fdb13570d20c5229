"""Summaries of the maps between a CNN's layers: what PyTorch's forward hooks see, in numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probegen_jax.networks import map_summaries, maps
from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.cnn import forward, published
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer import ConvLayer
from probegen_jax.networks.cnn.state_dict import from_torch, to_torch
from probegen_jax.networks.mixed_cnn import mixed
from probegen_jax.zoo.files import torch_files

WIDEST = 8
# Strides, links between layers of other widths, sides of 16, 9, 5, 5 and 2 pixels.
LINKED = CnnSpec(
    (
        ConvLayer(3, 8, 3, 1, 1, "gelu"),
        ConvLayer(8, 4, 5, 2, 3, "tanh"),
        ConvLayer(4, 8, 3, 2, 1, "relu"),
        ConvLayer(8, 4, 3, 1, 1, "selu", 2),
        ConvLayer(4, 6, 3, 2, 0, "none"),
    ),
    num_classes=4,
    image_shape=(16, 16, 3),
)


def everything(cells, whole, there, query):
    """A `Reduce` that keeps all there is, in the order (values, channels), zeros beyond these."""
    values = jnp.concatenate([cells.reshape(cells.shape[0], -1, cells.shape[3]), whole], axis=1)
    if there is not None:
        values = jnp.where(there[None, None], values, 0)
    values = jnp.pad(values, [(0, 0), (0, 0), (0, max(0, query.size - values.shape[2]))])
    return values.reshape(values.shape[0], -1)


def asked(cells, whole, there, query):
    """Of `everything`, a weighted sum over channels."""
    values = everything(cells, whole, there, query)
    return values.reshape(values.shape[0], -1, WIDEST) @ query


def seen(spec, weights, probes):
    """What `everything` makes of the maps that forward hooks see, and the outputs."""
    torch = pytest.importorskip("torch")
    from plain_torch import PlainCnn

    module = PlainCnn(spec.layers, spec.num_classes)
    state = {name: torch.tensor(np.array(a)) for name, a in to_torch(weights).items()}
    module.load_state_dict(state)
    found = []
    for each in module.activations:
        each.register_forward_hook(lambda module, args, out: found.append((args[0], out)))
    outputs = module(torch.tensor(np.asarray(probes).transpose(0, 3, 1, 2)))
    layers = []
    for pair in found:
        cells, wholes = zip(*map(summary, pair), strict=True)
        values = np.concatenate([*cells, *wholes], axis=1)
        padding = [(0, 0), (0, 0), (0, WIDEST - values.shape[2])]
        layers.append(np.pad(values, padding).reshape(len(values), -1))
    return outputs.detach().numpy(), np.stack(layers, axis=1)


def summary(x):
    """Statistics of maps as PyTorch computes them in float64: (P, 3·16, C) and (P, 7, C)."""
    import torch

    x = x.detach().double()
    pixels = x.flatten(2)
    whole = [
        pixels.mean(2),
        pixels.std(2, unbiased=False),
        pixels.amin(2),
        pixels.amax(2),
        torch.log1p(pixels.norm(dim=2)),
        (pixels > 0).double().mean(2),
        (pixels.abs() < 1e-3).double().mean(2),
    ]

    def cut(x, dim):
        if x.shape[dim] >= 4:
            return torch.tensor_split(x, 4, dim)
        return [x.narrow(dim, n * x.shape[dim] // 4, 1) for n in range(4)]

    cells = [cell.flatten(2) for row in cut(x, 2) for cell in cut(row, 3)]
    cells = [
        torch.stack([statistic(cell) for cell in cells], 1)
        for statistic in (
            lambda cell: cell.mean(2),
            lambda cell: cell.std(2, unbiased=False),
            lambda cell: cell.amax(2),
        )
    ]
    return torch.cat(cells, 1).numpy(), torch.stack(whole, 1).numpy()


def check(spec, weights, probes, expected, layers=None):
    queries = jnp.zeros((len(expected), layers or len(spec.layers), WIDEST))
    found = jax.jit(lambda w, p: spec.respond_with_maps(w, p, everything, queries))(weights, probes)
    for n, (outputs, summaries) in enumerate(expected):
        np.testing.assert_allclose(found[0][n], outputs, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[1][n], summaries, rtol=1e-5, atol=1e-5)


def network(spec, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), spec.abstract()
    )


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_summaries_of_the_golden_networks_are_those_of_forward_hooks(platform, shared, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr("test_maps.WIDEST", 16)
    folder = shared / "golden" / "cifar10_gs_vanilla" / "networks"
    files = [torch_files.load_cnn(path, path.name) for path in sorted(folder.iterdir())[:2]]
    probes = np.random.default_rng(0).standard_normal((3, 32, 32, 1), np.float32)
    choices = published.small_cnn_zoo().activations
    networks, expected = [], []
    for file in files:
        chosen = file.config["activation"]
        plain = from_torch(file.state)
        expected.append(seen(published.small_cnn_zoo(chosen, "official"), plain, probes))
        networks.append(plain | {"activation": np.int32(choices.index(chosen))})
    spec = published.small_cnn_zoo(fidelity="official").on_platform(platform)
    weights = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    check(spec, weights, probes, expected)


@pytest.mark.parametrize("block_size", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_so_are_those_of_strides_links_and_maps_of_any_size(block_size):
    spec = dataclasses.replace(LINKED, block_size=block_size)
    networks = [network(spec, n) for n in range(2)]
    probes = np.random.default_rng(1).standard_normal((3, 16, 16, 3), np.float32)
    weights = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    check(spec, weights, probes, [seen(spec, each, probes) for each in networks])


SMALL = dataclasses.replace(LINKED, layers=LINKED.layers[:2])
ALONE = dataclasses.replace(LINKED, layers=(ConvLayer(3, 4, 2, 3, 0, "sigmoid"),))


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_so_are_those_of_a_mixed_zoo_and_gradients_are_those_of_a_loop(platform):
    specs = [LINKED, ALONE, SMALL]
    networks = [network(spec, n) for n, spec in enumerate(specs)]
    spec, weights = mixed.build(specs, networks)
    spec = dataclasses.replace(spec, platform=platform, block_size=2)
    (weights,) = spec.shard(weights, [np.arange(3)])
    rng = np.random.default_rng(1)
    probes = rng.standard_normal((3, 16, 16, 3), np.float32)
    queries = rng.standard_normal((3, 5, WIDEST), np.float32)

    def together(probes, queries):
        return spec.respond_with_maps(weights, probes, asked, queries)

    def loop(probes, queries):
        found = []
        for n, (each, its) in enumerate(zip(specs, networks, strict=True)):
            one = jax.tree.map(lambda leaf: leaf[None], its)
            depth = len(each.layers)
            answers, read = each.respond_with_maps(one, probes, asked, queries[n : n + 1, :depth])
            found.append((answers, jnp.pad(read, [(0, 0), (0, 0), (0, 5 - depth), (0, 0)])))
        return [jnp.concatenate(parts) for parts in zip(*found, strict=True)]

    cotangents = [rng.standard_normal(n, np.float32) for n in ((3, 3, 4), (3, 3, 5, 110))]

    @jax.jit
    def both():
        results = []
        for way in (together, loop):
            found, back = jax.vjp(lambda p, q, way=way: tuple(way(p, q)), probes, queries)
            results.append((found, back(tuple(cotangents))))
        return results

    for ours, expected in zip(*map(jax.tree.leaves, both()), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    outputs, summaries = zip(
        *(seen(each, its, probes) for each, its in zip(specs, networks, strict=True)), strict=True
    )
    padded = [np.pad(each, [(0, 0), (0, 5 - each.shape[1]), (0, 0)]) for each in summaries]
    check(spec, weights, probes, list(zip(outputs, padded, strict=True)), layers=5)
    described, there = jax.jit(spec.describe_layers)(weights)
    for n, each in enumerate(specs):
        depth = len(each.layers)
        assert np.asarray(there[n]).tolist() == [True] * depth + [False] * (5 - depth)
        one = {"head": {"kernel": np.zeros((1, 1, 1))}}
        expected = np.array(each.describe_layers(one)[0][0])
        expected[0, 2] = 2  # the image's three channels are stored as four
        np.testing.assert_allclose(described[n, :depth], expected, rtol=1e-6)


def plainly(x):
    """The summaries of one map, as one would write them for automatic differentiation."""
    rows, columns = (np.array_split(np.arange(side), 4) for side in x.shape[1:3])
    cells = [x[:, a[0] : a[-1] + 1, b[0] : b[-1] + 1] for a in rows for b in columns]

    def each(statistic):
        return jnp.stack([statistic(cell, axis=(1, 2)) for cell in cells], 1)

    whole = [f(x, axis=(1, 2)) for f in (jnp.mean, jnp.std, jnp.min, jnp.max)]
    whole.append(jnp.log1p(jnp.sqrt(jnp.sum(jnp.square(x), axis=(1, 2)))))
    whole += [jnp.zeros_like(whole[0])] * 2  # counts, which have no slope
    return jnp.stack([each(f) for f in (jnp.mean, jnp.std, jnp.max)], 1), jnp.stack(whole, 1)


@pytest.mark.parametrize("size", [(8, 4), (9, 6)])
def test_their_gradients_are_those_of_the_plain_definition(size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, *size, 5), np.float32)
    cotangents = tuple(rng.standard_normal((3, *n, 5), np.float32) for n in ((3, 16), (7,)))

    @jax.jit
    def both(x):
        return [jax.vjp(f, x)[1](cotangents)[0] for f in (map_summaries.summary, plainly)]

    np.testing.assert_allclose(*both(x), rtol=1e-4, atol=1e-5)


def plain_answers(spec, weights, probes, query):
    """The responses and `asked` of `plainly`, for automatic differentiation."""
    found = []

    def see(index, before, after):
        cells, wholes = zip(*map(plainly, (before, after)), strict=True)
        found.append(
            asked(jnp.concatenate(cells, 1), jnp.concatenate(wholes, 1), None, query[index])
        )

    layers = [layer.convolve for layer in spec.layers]
    responses = forward.run(spec.layers, spec.activations, weights, probes, layers, see=see)
    return responses, jnp.stack(found, 1)


@pytest.mark.parametrize("layers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_by_hand_on_a_cpu_gradients_are_those_of_the_plain_definition(layers):
    both = (ConvLayer(2, 6, 3, 1, 1, "per_network"), ConvLayer(6, 8, 3, 2, 0, "sigmoid"))
    spec = CnnSpec(both[:layers], 3, (17, 19, 2), activations=("tanh", "relu"))
    networks = [network(spec, n) | {"activation": np.int32(n)} for n in range(2)]
    rng = np.random.default_rng(1)
    probes = rng.standard_normal((3, 17, 19, 2), np.float32)
    queries = rng.standard_normal((2, layers, WIDEST), np.float32)
    cotangents = [rng.standard_normal(n, np.float32) for n in ((2, 3, 3), (2, 3, layers, 110))]
    # Shares of values above and near 0 have no slope, and are no part of the plain definition.
    cotangents[1][..., [101, 102, 108, 109]] = 0
    weights = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)

    def plain(probes, queries):
        answers = [
            plain_answers(spec, *one) for one in zip(networks, [probes] * 2, queries, strict=True)
        ]
        return tuple(jnp.stack(parts) for parts in zip(*answers, strict=True))

    @jax.jit
    def gradients():
        def ours(probes, queries):
            return spec.respond_with_maps(weights, probes, asked, queries)

        return [jax.vjp(f, probes, queries)[1](tuple(cotangents)) for f in (ours, plain)]

    for found, expected in zip(*gradients(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_where_nothing_varies_gradients_are_finite_and_shared_by_all_pixels():
    x = jnp.concatenate([jnp.zeros((1, 8, 8, 2)), jnp.full((1, 8, 8, 2), -3.0)])

    @jax.jit
    def values_and_gradient(x):
        found, back = jax.vjp(map_summaries.summary, x)
        return found, back(jax.tree.map(jnp.ones_like, found))[0]

    (cells, whole), gradient = values_and_gradient(x)
    np.testing.assert_array_equal(cells[:, 1], 0)
    np.testing.assert_array_equal(whole[:, 1], 0)
    assert np.isfinite(gradient).all()
    # The mean and maximum of a cell, of 4 pixels, and mean, minimum and maximum of all 64.
    np.testing.assert_allclose(gradient[0], 2 / 4 + 3 / 64, rtol=1e-6)


def test_descriptions_say_what_each_layer_is():
    weights = jax.tree.map(lambda leaf: np.stack([leaf] * 2), network(LINKED, 0))
    described, there = jax.jit(LINKED.describe_layers)(weights)
    assert described.shape == (2, 5, maps.DESCRIPTION) and bool(there.all())
    third = np.zeros(maps.DESCRIPTION)
    # Depth from both ends; log₂ of channels and size; kernel, stride, dilation, groups; a middle
    # layer; its activation.
    third[:14] = [0.5, 0.5, 2, 3, np.log2(5), np.log2(5), 3, 3, 2, 2, 1, 1, 1, 0]
    third[14] = third[16 + list(ACTIVATIONS).index("relu")] = 1
    np.testing.assert_allclose(described[1, 2], third, rtol=1e-6)
    choosing = published.small_cnn_zoo(("relu", "tanh"))
    weights = jax.tree.map(
        lambda leaf: jnp.zeros((2, *leaf.shape), leaf.dtype), choosing.abstract()
    )
    weights["activation"] = jnp.array([1, 0], jnp.int32)
    one_hot = np.asarray(jax.jit(choosing.describe_layers)(weights)[0][:, 0, 16:])
    assert [list(ACTIVATIONS)[n] for n in one_hot.argmax(axis=1)] == ["tanh", "relu"]
