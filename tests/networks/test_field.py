"""Fields of every kind against the same formulas in NumPy, in float64."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from probegen_jax.errors import UserError
from probegen_jax.networks import registry
from probegen_jax.networks.field import FieldSpec

SPECS = [
    FieldSpec(),
    FieldSpec(hidden=(8, 6, 5), in_dim=3, activation="gelu", encoding="positional", frequencies=4),
    FieldSpec(hidden=(16,), in_dim=1, activation="tanh", encoding="positional", frequencies=2),
    FieldSpec(hidden=(8, 8), out_dim=3, encoding="fourier", frequencies=7, output_shift=0.0),
    FieldSpec(hidden=(8, 8), activation="gaussian", width=0.5),
    FieldSpec(hidden=(8, 8), activation="gabor", w0=10.0, width=2.0),
    FieldSpec(hidden=(8, 8), in_dim=3, activation="sine"),
]


def plain(spec, weights, probes):
    """A field by its definition."""
    x = np.asarray(probes, np.float64)
    if spec.encoding == "positional":
        parts = [x]
        for octave in range(spec.frequencies):
            parts += [np.sin(2**octave * np.pi * x), np.cos(2**octave * np.pi * x)]
        x = np.concatenate(parts, axis=-1)
    elif spec.encoding == "fourier":
        phases = 2 * np.pi * x @ np.asarray(weights["projection"], np.float64)
        x = np.concatenate([np.sin(phases), np.cos(phases)], axis=-1)
    *hidden, last = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), weights["layers"])
    for layer in hidden:
        linear = x @ layer["kernel"] + layer["bias"]
        if spec.activation == "gabor":
            scale = x @ layer["scale_kernel"] + layer["scale_bias"]
            x = np.cos(spec.w0 * linear) * np.exp(-((spec.width * scale) ** 2))
        else:
            x = {
                "relu": lambda x: np.maximum(x, 0),
                "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
                "tanh": np.tanh,
                "sine": lambda x: np.sin(spec.w0 * x),
                "gaussian": lambda x: np.exp(-(x**2) / (2 * spec.width**2)),
            }[spec.activation](linear)
    return x @ last["kernel"] + last["bias"] + spec.output_shift


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.activation}-{spec.encoding}")
def test_a_field_is_its_formula_and_its_gradients_are_those_of_a_loop(spec):
    weights = jax.vmap(spec.init)(jax.random.split(jax.random.key(0), 4))
    assert sum(leaf[0].size for leaf in jax.tree.leaves(weights)) == spec.num_weights
    assert jax.tree.map(lambda leaf: leaf.shape[1:], weights) == jax.tree.map(
        lambda leaf: leaf.shape, spec.abstract()
    )
    probes = jax.random.uniform(jax.random.key(1), (6, spec.in_dim), minval=-1)
    responses = jax.jit(spec.respond)(weights, probes)
    in_blocks = jax.jit(dataclasses.replace(spec, block_size=3).respond)(weights, probes)
    np.testing.assert_allclose(in_blocks, responses, atol=1e-5)
    for n in range(4):
        network = spec.take(weights, n)
        np.testing.assert_allclose(responses[n], plain(spec, network, probes), atol=2e-5)
    ours = jax.jit(jax.grad(lambda p: jnp.sum(spec.respond(weights, p) ** 2)))(probes)
    of_one = jax.jit(jax.grad(lambda p, network: jnp.sum(spec.apply(network, p) ** 2)))
    loop = sum(of_one(probes, spec.take(weights, n)) for n in range(4))
    np.testing.assert_allclose(ours, loop, rtol=1e-4, atol=1e-4)
    taps = jax.jit(spec.respond_with_taps)(weights, probes)
    assert tuple(tap.shape[-1] for tap in taps) == (*spec.tap_sizes, spec.out_dim)
    assert registry.from_json(registry.to_json(spec)) == spec


@pytest.mark.parametrize("target", ["cuda", "tpu"])
def test_for_accelerators_it_has_no_control_flow(target):
    for spec in SPECS:
        weights = jax.vmap(spec.init)(jax.random.split(jax.random.key(0), 2))
        gradient = jax.jit(jax.grad(lambda p, w, s=spec: jnp.sum(s.respond(w, p))))
        traced = gradient.trace(jnp.zeros((3, spec.in_dim)), weights)
        text = traced.lower(lowering_platforms=(target,)).as_text()
        assert "stablehlo.while" not in text and "stablehlo.case" not in text


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"encoding": "fourier"}, "0 frequencies"),
        ({"frequencies": 4}, "encoding is 'none' with 4"),
        ({"hidden": ()}, "widths are"),
        ({"hidden": (8, 0)}, "widths are"),
    ],
)
def test_what_no_field_can_be_is_told(values, told):
    with pytest.raises(UserError, match=told):
        FieldSpec(**values)
