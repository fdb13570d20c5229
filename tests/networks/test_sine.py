import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probegen_jax.networks.sine import sine

pytestmark = pytest.mark.optimized


@pytest.mark.parametrize("reach", [3, 100, 10_000])
@pytest.mark.parametrize("compiled", [False, True])
def test_value_and_derivative_stay_within_their_bound(reach, compiled):
    x = np.random.default_rng(0).uniform(-reach, reach, 1 << 20).astype(np.float32)

    def both(x):
        return jax.jvp(sine, (x,), (jnp.ones_like(x),))

    value, derivative = (jax.jit(both) if compiled else both)(jnp.asarray(x))
    exact = x.astype(np.float64)
    assert np.abs(value - np.sin(exact)).max() <= 2e-7
    assert np.abs(derivative - np.cos(exact)).max() <= 2e-7


def test_it_stays_a_sine_far_outside():
    x = jnp.asarray([1e5, -1e7, 1e20, 3e38], jnp.float32)
    assert jnp.all(jnp.abs(sine(x)) <= 1)


def test_not_a_number_stays_one():
    assert jnp.isnan(sine(jnp.asarray([jnp.nan, jnp.inf]))).all()


def test_reverse_mode_under_vmap():
    x = jnp.linspace(-5, 5, 12).reshape(3, 4)
    grads = jax.vmap(jax.grad(lambda row: jnp.sum(sine(row))))(x)
    np.testing.assert_allclose(grads, jnp.cos(x), atol=2e-7)
