"""Statistics of weights: those that NumPy finds in each network's own arrays."""

import jax
import numpy as np
import pytest

from probegen_jax.errors import UserError
from probegen_jax.networks.cnn.published import small_cnn_zoo, wild_park
from probegen_jax.networks.mixed_cnn import mixed
from probegen_jax.networks.siren import SirenSpec


def by_numpy(array):
    values = np.asarray(array, np.float64).ravel()
    return [values.mean(), values.var(), *np.quantile(values, (0, 0.25, 0.5, 0.75, 1))]


def networks(spec, number):
    return jax.vmap(spec.init)(jax.random.split(jax.random.key(1), number))


@pytest.mark.parametrize("spec", [SirenSpec((4, 3)), small_cnn_zoo(("relu", "tanh"))])
def test_of_each_array_of_networks_of_one_architecture(spec):
    weights = networks(spec, 3)
    for n, found in enumerate(jax.jit(spec.statistics)(weights)):
        leaves = jax.tree.leaves(jax.device_get(weights))
        arrays = [leaf[n] for leaf in leaves if leaf.dtype == np.float32]
        expected = np.concatenate([by_numpy(array) for array in arrays])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        flat = np.concatenate([array.ravel() for array in arrays])
        assert len(flat) == spec.num_weights
        np.testing.assert_array_equal(spec.flat(weights)[n], flat)


def different_cnns():
    """Two, three and three layers; one of the last has four channels after the first layer.

    Its second layer then is of the kind of a first one, whose kernels are stored with a fourth
    channel of zeros.
    """
    specs = []
    for channels in ([3, 8, 4], [3, 4, 8, 4], [3, 4, 4, 16]):
        depth = len(channels) - 1
        each = {"kernel_size": 3, "stride": 1, "padding": 1, "activation": "relu", "residual": -1}
        config = {name: [value] * depth for name, value in each.items()}
        config |= {"n_layers": depth, "n_classes": 10, "channels": channels}
        specs.append(wild_park(config, "faithful", "a", (8, 8)))
    return specs, [jax.device_get(s.init(jax.random.key(n))) for n, s in enumerate(specs)]


def test_over_the_layers_of_networks_that_differ():
    """The same for a network alone as among others, sharded or not."""
    specs, each = different_cnns()
    spec, weights = mixed.build(specs, each)
    found = jax.jit(spec.statistics)(weights)
    assert found.shape == (3, spec.num_statistics)
    for n, network in enumerate(each):
        by_layer = [
            by_numpy(layer["kernel"]) + by_numpy(layer["bias"]) for layer in network["layers"]
        ]
        head = by_numpy(network["head"]["kernel"]) + by_numpy(network["head"]["bias"])
        over = [np.mean(by_layer, 0), np.min(by_layer, 0), np.max(by_layer, 0)]
        expected = [*over, by_layer[0], by_layer[-1], head, [len(by_layer)]]
        np.testing.assert_allclose(found[n], np.concatenate(expected), rtol=1e-4, atol=1e-6)
    (part,) = spec.shard(weights, [np.array([2, 0], np.int32)])
    np.testing.assert_allclose(jax.jit(spec.statistics)(part), found[np.array([2, 0])], rtol=1e-6)


def test_networks_that_differ_have_no_common_row():
    spec, weights = mixed.build(*different_cnns())
    with pytest.raises(UserError, match="have different architectures; use another method, such"):
        spec.flat(weights)
