import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probegen_jax.networks.activations import ACTIVATIONS, SLOPES

X = np.linspace(-6, 6, 96, dtype=np.float32)  # without 0, where slopes are a convention


def test_stored_places_keep_their_meaning():
    stored = ("none", "relu", "gelu", "tanh", "sigmoid", "leaky_relu", "sine", "selu")
    assert tuple(ACTIVATIONS)[: len(stored)] == stored


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_values_and_slopes_are_those_of_torch(name):
    torch = pytest.importorskip("torch")
    import plain_torch

    x = torch.tensor(X, requires_grad=True)
    expected = plain_torch.ACTIVATIONS[name](x)
    expected.sum().backward()
    found, back = jax.vjp(ACTIVATIONS[name], jnp.asarray(X))
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(back(jnp.ones_like(found))[0], x.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(SLOPES))
def test_slopes_follow_from_the_output(name):
    y, back = jax.vjp(ACTIVATIONS[name], jnp.asarray(X))
    np.testing.assert_allclose(SLOPES[name](y), back(jnp.ones_like(y))[0], rtol=1e-5, atol=1e-6)
