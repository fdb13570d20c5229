import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from probegen_jax.errors import UserError
from probegen_jax.method.generators.registry import GENERATOR_ACTIVATIONS
from probegen_jax.method.layers import dense
from probegen_jax.method.model import make_generator
from probegen_jax.method.readouts.outputs import Head
from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.siren import SirenSpec


def generator(method, num_probes=6, key=0, depth=2, **more):
    settings = {"num_probes": num_probes, "latent_dim": 32, "generator_depth": depth} | more
    return make_generator(settings | {"method": method}, (2,), rngs=nnx.Rngs(params=key))


@pytest.mark.parametrize("method", ["probegen", "vanilla", "uniform"])
def test_every_method_makes_its_probes_from_its_seed(method):
    probes = generator(method)()
    assert probes.shape == (6, 2) and probes.dtype == jnp.float32
    np.testing.assert_array_equal(probes, generator(method)())
    assert not np.array_equal(probes, generator(method, key=1)())


def test_probegen_is_linear_in_its_latents():
    model = generator("probegen", depth=3)
    assert len(model.layers) == 3
    latents = model.latents[...]
    once = model()
    model.latents[...] = jnp.zeros_like(latents)
    origin = model()
    model.latents[...] = 2 * latents
    np.testing.assert_allclose(model() - origin, 2 * (once - origin), atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_an_activation_stands_between_the_layers(activation):
    model = generator("probegen", depth=3, generator_activation=activation)
    linear = generator("probegen", depth=3)
    np.testing.assert_array_equal(model.latents[...], linear.latents[...])  # starts alike
    x = model.latents[...]
    for n, layer in enumerate(linear.layers):
        x = x @ layer.kernel[...] + layer.bias[...][None]
        x = ACTIVATIONS[activation](x) if n < 2 else x
    np.testing.assert_allclose(model(), x, rtol=1e-5, atol=1e-6)
    assert not np.allclose(model(), linear(), atol=1e-3)


def test_activations_are_known_without_jax():
    assert tuple(ACTIVATIONS) == GENERATOR_ACTIVATIONS


def test_uniform_probes_lie_on_the_image_and_are_not_trained():
    model = generator("uniform", num_probes=1000)
    assert jnp.abs(model()).max() <= 1
    np.testing.assert_allclose(model().std(), 1 / 3**0.5, rtol=0.05)
    assert not jax.tree.leaves(nnx.state(model, nnx.Param))


@pytest.mark.parametrize("side", [1, 2, 28])
def test_pixels_are_those_that_an_inr_is_drawn_on(side):
    settings = {"method": "pixels", "num_probes": side**2, "pixels_size": side}
    model = make_generator(settings, (2,), rngs=nnx.Rngs(params=0))
    expected = SirenSpec().pixel_coordinates(side, side) if side > 1 else np.zeros((1, 2))
    np.testing.assert_allclose(model(), expected, atol=1e-7)
    assert not jax.tree.leaves(nnx.state(model, nnx.Param))
    with pytest.raises(UserError, match=r"read points of 3 coordinate.s., and pixels have 2"):
        make_generator(settings, (3,), rngs=nnx.Rngs(params=0))


def test_free_probes_and_latents_start_normal():
    np.testing.assert_allclose(generator("vanilla", 5000)().std(), 1, rtol=0.03)
    np.testing.assert_allclose(generator("probegen", 1000).latents[...].std(), 1, rtol=0.03)


def test_dense_starts_as_torch_does():
    layer = dense(100, 400, rngs=nnx.Rngs(params=0))
    for array in (layer.kernel[...], layer.bias[...]):
        assert jnp.abs(array).max() <= 0.1
        np.testing.assert_allclose(array.std(), 0.1 / 3**0.5, rtol=0.1)


def test_head_reads_responses_probe_major():
    head = Head(6, 4, 1, 2, rngs=nnx.Rngs(params=0))
    responses = jnp.arange(12.0).reshape(2, 3, 2)
    kernel, bias = head.layers[0].kernel[...], head.layers[0].bias[...]
    np.testing.assert_allclose(
        head(responses), responses.reshape(2, 6) @ kernel + bias[None], rtol=1e-6
    )


def test_unknown_method_is_named():
    with pytest.raises(
        UserError, match=r"method is 'vanila'.* choose from probegen, vanilla, uniform"
    ):
        generator("vanila")
