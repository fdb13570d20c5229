"""Mixed CNNs as accelerators run them: what they compute, on the CPU, and what is compiled.

With the compilers of accelerators at hand (`jax[tpu]`, `jax[cuda13]`), `-m slow` asks them, too.
"""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies

from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer import ConvLayer
from probegen_jax.networks.mixed_cnn import mixed
from probegen_jax.networks.mixed_cnn.on_accelerator import batch

PROBES = 6
# Strides, paddings, even kernels, links between layers of different widths, and all activations.
SPECS = [
    CnnSpec(layers, num_classes=4, image_shape=(6, 6, 3))
    for layers in (
        (
            ConvLayer(3, 8, 3, 1, 1, "gelu"),
            ConvLayer(8, 4, 5, 1, 2, "sigmoid", 0),
            ConvLayer(4, 8, 3, 1, 1, "tanh", 0),
            ConvLayer(8, 8, 3, 1, 1, "relu", 1),
        ),
        (ConvLayer(3, 4, 5, 2, 1, "sine"), ConvLayer(4, 8, 2, 1, 0, "selu")),
        (
            ConvLayer(3, 8, 3, 1, 0, "leaky_relu"),
            ConvLayer(8, 8, 3, 1, 1, "relu", 0),
            ConvLayer(8, 8, 3, 2, 1, "none"),
        ),
        (ConvLayer(3, 4, 3, 1, 1, "sigmoid"),),
    )
]


@pytest.fixture(scope="module")
def zoo():
    """A spec, its weights and, of a loop over networks, responses and the probes' gradient."""
    rng = np.random.default_rng(0)
    networks = [
        jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), each)
        for each in (spec.abstract() for spec in SPECS)
    ]
    spec, weights = mixed.build(SPECS, networks)
    probes = rng.standard_normal((PROBES, 6, 6, 3), np.float32)
    cotangents = rng.standard_normal((len(SPECS), PROBES, 4), np.float32)

    def loop(probes):
        pairs = zip(SPECS, networks, strict=True)
        return jnp.stack([each.apply(weights, probes) for each, weights in pairs])

    def both(respond):
        responses, back = jax.vjp(respond, probes)
        return responses, back(cotangents)[0]

    return spec, weights, both, jax.jit(lambda: both(loop))()


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("kept", ["all is kept", "networks are run again"])
def test_every_form_equals_a_loop_over_networks(zoo, platform, kept, monkeypatch):
    spec, weights, both, expected = zoo
    assert set(spec.activations) == set(ACTIVATIONS)
    block_size = None
    if kept != "all is kept":
        monkeypatch.setattr(batch, "TAPE_BYTES", 0)
        block_size = 4  # and probes in chunks, the last one filled up
        spec = dataclasses.replace(spec, tape_size=0)
    else:  # as weights lie on devices, where kernels are flat
        (weights,) = spec.shard(weights, [np.arange(len(SPECS))])
    spec = dataclasses.replace(spec, platform=platform, block_size=block_size)
    weights = jax.tree.map(jnp.asarray, weights)
    found = jax.jit(lambda weights: both(lambda probes: spec.respond(weights, probes)))(weights)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_bfloat16_is_close_and_leaves_float32_outside(zoo):
    spec, weights, both, exact = zoo
    spec = dataclasses.replace(spec, platform="tpu", dtype="bfloat16")
    weights = jax.tree.map(jnp.asarray, weights)
    rounded = jax.jit(lambda: both(lambda probes: spec.respond(weights, probes)))()
    for a, b in zip(exact, rounded, strict=True):
        assert b.dtype == jnp.float32
        difference = float(jnp.linalg.norm(a - b) / jnp.linalg.norm(a))
        assert 1e-5 < difference < 0.02  # bfloat16 has 8 bits


def wild_park(networks):
    """The shapes of a spec's weights, with every kind of layer of the Wild Park."""
    rng, specs = np.random.default_rng(0), []
    kinds = list(itertools.product((4, 8, 16, 32), (4, 8, 16, 32), (3, 5, 7)))
    for m, n, k in kinds:
        name = str(rng.choice(["relu", "gelu", "tanh", "sigmoid", "leaky_relu"]))
        layers = (ConvLayer(3, m, k, 1, k // 2, name), ConvLayer(m, n, k, 1, k // 2, name, 0))
        specs.append(CnnSpec(layers, image_shape=(32, 32, 3)))
    spec, weights = mixed.build(specs, [_zeros(each.abstract()) for each in specs])
    return spec, spec.shard(weights, [np.arange(networks)])[0]


def _zeros(shapes):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def responses_and_gradient(spec):
    def both(weights, probes, cotangents):
        responses, back = jax.vjp(lambda probes: spec.respond(weights, probes), probes)
        return responses, back(cotangents)[0]

    return both


@pytest.mark.parametrize(("platform", "lowered_for"), [("gpu", "cuda"), ("tpu", "tpu")])
def test_there_is_one_decision_a_layer_and_direction_and_no_other_loop(platform, lowered_for):
    spec, weights = wild_park(8)
    spec = dataclasses.replace(spec, platform=platform)
    shapes = jax.ShapeDtypeStruct((128, 32, 32, 3), jnp.float32), np.zeros((8, 128, 10), np.float32)
    traced = jax.jit(responses_and_gradient(spec)).trace(weights, *shapes)
    text = traced.lower(lowering_platforms=(lowered_for,)).as_text()
    assert text.count("stablehlo.case") == 2
    # Over networks and over layers, forwards and back; each counts up to a number.
    loops = re.findall(r"stablehlo\.while.*?\n\s*cond \{(.*?)\} do", text, re.DOTALL)
    assert len(loops) == text.count("stablehlo.while") == 4
    for condition in loops:
        bound = re.search(r"= stablehlo\.constant dense<(\d+)> : tensor<i32>", condition)
        assert bound is not None and int(bound[1]) in (8, 2), condition
    # Kinds of one kernel share their code on a TPU.
    convolutions = text.count("stablehlo.convolution")
    assert convolutions == 2 * {"gpu": len(spec.kinds), "tpu": 3}[platform]


def compiled_for(device, platform):
    """Responses of 8 networks of the Wild Park to 128 probes, and the gradient, for a device."""
    spec, weights = wild_park(8)
    spec = dataclasses.replace(spec, platform=platform)
    given = weights, np.zeros((128, 32, 32, 3), np.float32), np.zeros((8, 128, 10), np.float32)
    sharding = jax.sharding.SingleDeviceSharding(device)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), given
    )
    return jax.jit(responses_and_gradient(spec)).lower(*shapes).compile()


@pytest.mark.slow
@pytest.mark.optimized
def test_it_compiles_for_a_gpu_that_is_not_there(shared):
    pytest.importorskip("jax_plugins.xla_cuda13")
    target = (shared / "accelerators" / "h100.txtpb").read_text()
    topology = topologies.get_topology_desc(platform="cuda", target_config=target, topology="1x1x1")
    compiled = compiled_for(topology.devices[0], "gpu")
    lines = compiled.as_text().splitlines()
    loops = [line for line in lines if " while(" in line]
    assert len(loops) == 4 and all("known_trip_count" in line for line in loops)
    assert sum(" conditional(" in line for line in lines) == 2
    # Of 8 networks of two layers; so 32 of five take 10 times as much, at most.
    assert compiled.memory_analysis().temp_size_in_bytes < 0.8e9


@pytest.mark.slow
@pytest.mark.optimized
def test_it_compiles_for_a_tpu_that_is_not_there(monkeypatch):
    pytest.importorskip("libtpu")
    for name in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        monkeypatch.setenv(name, "1")
    topology = topologies.get_topology_desc(topology_name="v5e:2x2", platform="tpu")
    compiled = compiled_for(topology.devices[0], "tpu")
    text = compiled.as_text()
    assert text.count(" conditional(") == 2
    assert compiled.memory_analysis().temp_size_in_bytes < 1.6e9
    # Kernels lie as the fast way to convolve needs them: else it takes three times as long.
    cycles = [
        int(re.search(r'"estimated_cycles":"(\d+)"', line)[1])
        for line in text.splitlines()
        if "convolution" in line and "f32[128,32,32,32]" in line and "estimated_cycles" in line
    ]
    assert cycles and max(cycles) < 1_000_000
