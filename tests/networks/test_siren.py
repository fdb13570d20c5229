import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.siren import SirenSpec

SPECS = [
    SirenSpec(),
    SirenSpec(hidden=(16,), out_dim=3, output_shift=0.0, w0=10.0),
    SirenSpec(hidden=(8, 12, 5), in_dim=3),
]


def zoo_weights(spec, number):
    weights = jax.vmap(spec.init)(jax.random.split(jax.random.key(0), number))
    return jax.tree.map(lambda leaf: leaf + 0.05, weights)  # biases that are not zero


def plain_siren(spec, weights, probes):
    """What a SIREN is, in float64 and without any of the package's code."""
    x = np.asarray(probes, np.float64)
    for layer in weights[:-1]:
        x = np.sin(spec.w0 * (x @ np.asarray(layer["kernel"], np.float64) + layer["bias"]))
    return (
        x @ np.asarray(weights[-1]["kernel"], np.float64)
        + weights[-1]["bias"]
        + (spec.output_shift)
    )


@pytest.mark.parametrize("spec", SPECS)
def test_respond_equals_a_loop_over_plain_networks(spec):
    assert isinstance(spec, NetworkSpec)
    weights = zoo_weights(spec, 5)
    probes = jax.random.normal(jax.random.key(1), (7, spec.in_dim))
    responses = spec.respond(weights, probes)
    assert responses.shape == (5, 7, spec.response_dim)
    for n in range(5):
        network = jax.tree.map(lambda leaf, n=n: np.asarray(leaf[n]), weights)
        np.testing.assert_allclose(responses[n], plain_siren(spec, network, probes), atol=1e-5)


def test_probe_gradients_equal_a_loop_over_networks_with_the_exact_sine():
    spec, number = SpecWithExactSine(), 5
    weights = zoo_weights(SirenSpec(), number)
    probes = jax.random.normal(jax.random.key(1), (7, 2))
    ours = jax.grad(lambda p: jnp.sum(SirenSpec().respond(weights, p) ** 2))(probes)
    plain = sum(
        jax.grad(lambda p, n=n: jnp.sum(spec.apply(spec.take(weights, n), p) ** 2))(probes)
        for n in range(number)
    )
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)


def test_no_sine_goes_beyond_the_bound_and_the_exact_one_agrees():
    spec = SirenSpec()
    weights = zoo_weights(spec, 5)
    probes = jax.random.uniform(jax.random.key(1), (50, 2), minval=-3.0, maxval=3.0)
    first = jax.tree.map(np.asarray, weights[0])
    phases = [30 * (probes @ first["kernel"][n] + first["bias"][n][None]) for n in range(5)]
    bound = spec.phase_bound(jax.tree.map(np.asarray, weights), reach=3.0)
    assert max(jnp.abs(each).max() for each in phases) <= bound < 1000
    exact = dataclasses.replace(spec, sine="exact")
    np.testing.assert_allclose(
        exact.respond(weights, probes), spec.respond(weights, probes), atol=1e-5
    )


@pytest.mark.parametrize("hidden", [(16,), (8, 12, 5)])
def test_the_first_layer_may_have_a_factor_of_its_own(hidden):
    spec = SirenSpec(hidden=hidden, output_shift=0.0, w0=2.0, w0_first=30.0)
    weights = zoo_weights(spec, 3)
    probes = jax.random.uniform(jax.random.key(1), (7, 2), minval=-1.0)
    responses = spec.respond(weights, probes)
    for n in range(3):
        network = jax.tree.map(lambda leaf, n=n: np.asarray(leaf[n], np.float64), weights)
        # sin(30·(Wx + b)) is sin(2·(15·Wx + 15·b)).
        network = ({name: 15 * leaf for name, leaf in network[0].items()}, *network[1:])
        np.testing.assert_allclose(responses[n], plain_siren(spec, network, probes), atol=1e-5)
    scaled = jax.tree.map(np.asarray, weights)
    as_one = ({name: 15 * leaf for name, leaf in scaled[0].items()}, *scaled[1:])
    bounds = (
        spec.phase_bound(scaled, 3.0),
        SirenSpec(hidden=hidden, w0=2.0).phase_bound(as_one, 3.0),
    )
    np.testing.assert_allclose(*bounds, rtol=1e-6)
    assert jnp.abs(spec.init(jax.random.key(0))[0]["kernel"]).max() <= 3**0.5 / 30


def test_without_it_nothing_is_computed_or_written_otherwise():
    plain, same = SirenSpec(), SirenSpec(w0_first=30.0)
    weights, probes = plain.init(jax.random.key(0)), jnp.zeros((3, 2))
    assert str(jax.make_jaxpr(plain.apply)(weights, probes)) == str(
        jax.make_jaxpr(same.apply)(weights, probes)
    )
    assert "w0_first" not in plain.to_json()
    assert SirenSpec.from_json(plain.to_json()) == plain
    assert SirenSpec.from_json(same.to_json()) == same


class SpecWithExactSine:
    def apply(self, weights, probes):
        x = probes
        for layer in weights[:-1]:
            x = jnp.sin(30.0 * (jnp.dot(x, layer["kernel"]) + layer["bias"][None]))
        return jnp.dot(x, weights[-1]["kernel"]) + weights[-1]["bias"][None] + 0.5

    def take(self, weights, row):
        return jax.tree.map(lambda leaf: leaf[row], weights)


def test_initial_weights_follow_the_published_recipe():
    spec = SirenSpec()
    weights = jax.vmap(spec.init)(jax.random.split(jax.random.key(0), 500))
    for layer, bound in zip(
        weights, ((6 / 2) ** 0.5 / 30, (6 / 32) ** 0.5 / 30, 32**-0.5), strict=True
    ):
        assert jnp.abs(layer["kernel"]).max() <= bound
        np.testing.assert_allclose(layer["kernel"].std(), bound / 3**0.5, rtol=0.02)
    assert not weights[0]["bias"].any() and not weights[1]["bias"].any()
    np.testing.assert_allclose(weights[2]["bias"].std(), 32**-0.5 / 3**0.5, rtol=0.1)
    assert len(np.unique(np.asarray(weights[1]["kernel"][:, 0, 0]))) == 500


def test_weight_count_and_abstract_shapes():
    spec = SirenSpec()
    assert spec.num_weights == 1185
    leaves = jax.tree.leaves(spec.abstract())
    assert sum(leaf.size for leaf in leaves) == 1185
    real = jax.tree.map(lambda leaf: leaf.shape, spec.init(jax.random.key(0)))
    assert real == jax.tree.map(lambda leaf: leaf.shape, spec.abstract())


def test_pixel_coordinates_in_both_orders():
    xy = SirenSpec().pixel_coordinates(2, 3)
    np.testing.assert_array_equal(xy, [[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]])
    ij = SirenSpec(grid="ij").pixel_coordinates(2, 3)
    np.testing.assert_array_equal(ij, xy[:, ::-1])
