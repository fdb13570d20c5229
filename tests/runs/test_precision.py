"""The precision of matmuls: what "auto" stands for, and that it is what it is said to be."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPO

from probegen_jax.errors import UserError
from probegen_jax.runs.experiment import matmul_precision
from probegen_jax.runs.folder import refuse_other

sys.path[:0] = [str(REPO)]

from benchmarks import precision
from configs import digits


def test_auto_is_chosen_by_the_platform_and_other_values_stay():
    config = digits.get_config()
    chosen = {platform: matmul_precision(config, platform) for platform in ("cpu", "gpu", "tpu")}
    assert chosen == {"cpu": "highest", "gpu": "highest", "tpu": "high"}
    config.matmul_precision = "default"
    assert matmul_precision(config, "tpu") == "default"


def test_runs_from_before_auto_go_on(tmp_path):
    ours = digits.get_config().to_dict()
    refuse_other(tmp_path, ours | {"matmul_precision": "highest"}, ours)
    with pytest.raises(UserError, match="matmul_precision"):
        refuse_other(tmp_path, ours | {"matmul_precision": "default"}, ours)


def test_rounding_is_that_of_bfloat16():
    x = jax.random.normal(jax.random.key(0), (1000,)) * jnp.asarray(
        np.repeat(10.0 ** np.arange(-5, 5), 100), jnp.float32
    )
    ties = jnp.asarray([0.0, 1 + 2**-8, 1 + 3 * 2**-8, -1.0])
    x = jnp.concatenate([x, ties])
    expected = x.astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(precision.rounded(x, 7), expected)


@pytest.mark.parametrize(("name", "least", "most"), [("bf16x3", 1e-7, 1e-4), ("tf32", 5e-5, 1e-2)])
def test_emulated_products_are_rounded_forwards_and_back(name, least, most):
    a, b = (jax.random.normal(jax.random.key(seed), (64, 64)) for seed in (0, 1))

    def both(a, b):
        return a @ b, jax.grad(lambda a: jnp.sum(jnp.tanh(a @ b)))(a)

    exact, found = jax.jit(both)(a, b), precision.emulated(both, name)(a, b)
    for ours, theirs in zip(found, exact, strict=True):
        assert least < float(jnp.abs(ours - theirs).max() / jnp.abs(theirs).max()) < most
    np.testing.assert_allclose(precision.emulated(both, "highest")(a, b)[0], exact[0], atol=1e-5)


def test_what_cannot_be_emulated_is_refused():
    with pytest.raises(ValueError, match="scan"):
        looped = precision.emulated(lambda x: jax.lax.map(lambda row: row @ row, x), "bf16")
        looped(jnp.ones((2, 3)))


@pytest.mark.parametrize(("name", "agrees"), [("bf16x3", True), ("tf32", False)])
def test_auto_is_the_cheapest_that_agrees_with_the_official_code(name, agrees):
    worst = max(max(case.values()) for case in precision.golden(name).values())
    assert (worst < 1e-5) == agrees
