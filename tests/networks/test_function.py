"""Functions of the user's own as networks: what they can be, and what is told of the others."""

import textwrap

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from probegen_jax import trees
from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks import function
from probegen_jax.networks.function import from_function
from probegen_jax.networks.options import Options, ReadOptions

WEIGHTS = {"kernel": np.ones((3, 2), np.float32), "bias": np.zeros(2, np.float32)}


def linear(weights, probes):
    return probes @ weights["kernel"] + weights["bias"][None]


def stacked(number=4, seed=0):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: random.standard_normal((number, *leaf.shape), np.float32), WEIGHTS
    )


def test_a_plain_function_is_a_family():
    spec = from_function(linear, WEIGHTS, (3,))
    assert (spec.probe_shape, spec.response_dim, spec.num_weights) == ((3,), 2, 8)
    assert hash(spec) == hash(from_function(linear, WEIGHTS, (3,)))
    weights, probes = stacked(), np.random.default_rng(1).standard_normal((5, 3), np.float32)
    expected = np.einsum("pi,nio->npo", probes, weights["kernel"]) + weights["bias"][:, None]
    for each in (spec, spec.with_options(Options(2)), spec.with_options(Options(1))):
        np.testing.assert_allclose(jax.jit(each.respond)(weights, probes), expected, rtol=1e-5)
    assert spec.is_stacked(weights) and not spec.is_stacked(WEIGHTS)
    state = trees.named(spec.take(weights, 2))
    read = spec.read(state, None, "a", ReadOptions())
    jax.tree.map(np.testing.assert_array_equal, read, spec.take(weights, 2))
    assert spec.file_shapes(None, "a", ReadOptions()) == {"bias": (2,), "kernel": (3, 2)}


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Conv(4, (3, 3), strides=2)(x))
        return nn.Dense(3)(x.reshape(len(x), -1))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)])

    def __call__(self, x):
        return self.layers[1](nnx.relu(self.layers[0](x)))


@pytest.mark.slow  # test_docs runs the like
def test_a_flax_module_is_a_family():
    module = Linen()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 6, 6, 1)))
    spec = from_function(module.apply, variables, (6, 6, 1))
    assert spec.response_dim == 3 and spec.shapes[0][0] == "params.Conv_0.bias"
    probes = jax.random.normal(jax.random.key(1), (2, 6, 6, 1))
    weights = jax.tree.map(lambda leaf: leaf[None], variables)
    found = spec.respond(weights, probes)[0]
    np.testing.assert_allclose(found, module.apply(variables, probes), rtol=1e-5, atol=1e-6)

    graph, state = nnx.split(Nnx(nnx.Rngs(0)))
    spec = from_function(
        lambda weights, probes: nnx.merge(graph, weights)(probes), nnx.to_pure_dict(state), (2,)
    )
    assert [name for name, _ in spec.shapes][:2] == ["layers.0.bias", "layers.0.kernel"]


def counted(weights, probes, calls=[]):  # noqa: B006  the mistake that is looked for
    calls.append(0)
    return linear(weights, probes) * len(calls)


def noisy(weights, probes):
    return linear(weights, probes) + np.random.default_rng().standard_normal(2, np.float32)[None]


LEAK = []


def leaking(weights, probes):
    LEAK.append(probes)
    return linear(weights, probes)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (lambda w, x: x @ w["kernel"][:, 0], r"returns an array of shape \(2,\) for 2 probes"),
        (lambda w, x: (linear(w, x), 1), r"returns tuple for 2 probes; it must return \(2, R\)"),
        (lambda w, x: linear(w, x).T, r"of shape \(2, 3\) for 3 probes; it must return \(3, R\)"),
        (lambda w, x: jnp.tile(linear(w, x), (1, len(x))), "returns 4 or 6 values for a probe"),
        (lambda w, x: linear(w, x).astype(jnp.bfloat16), "returns bfloat16; it must return float"),
        (lambda w, x: w["missing"] @ x, r"fails: KeyError: 'missing'"),
        (lambda w, x: np.sin(x), r"\(test_function.py, line \d+\) fails: Tracer"),
        (counted, "counted is not pure: called twice, it computes two different things"),
        (noisy, "noisy is not pure"),
        (leaking, "leaking.* fails: .*[Ll]eak"),
    ],
)
def test_a_function_that_is_no_network_is_told_in_a_line(bad, told):
    with pytest.raises(UserError, match=told) as error:
        from_function(bad, WEIGHTS, (3,))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"a": np.ones(2)}, "the weights' a is float64; give arrays of float32"),
        ({"a": [1.0]}, r"the weights' a.0 is float; give arrays"),
        ({}, "the weights hold no arrays"),
    ],
)
def test_weights_that_cannot_be_are_told(weights, told):
    with pytest.raises(UserError, match=told):
        from_function(linear, weights, (3,))


def test_a_network_is_tried_out():
    zero = jax.tree.map(np.zeros_like, WEIGHTS)
    draws = iter(range(100))

    def host(x):
        return np.full((len(x), 2), next(draws), np.float32)

    def calling(w, x):
        kind = jax.ShapeDtypeStruct((len(x), 2), np.float32)
        return jax.pure_callback(host, kind, jax.lax.stop_gradient(x))

    function.try_out(from_function(linear, WEIGHTS, (3,)), WEIGHTS, "mine.py")
    for bad, told in (
        (lambda w, x: jnp.log(linear(w, x)), "mine.py: answers of the first network, .* are NaN"),
        (lambda w, x: jnp.sqrt(jnp.abs(linear(w, x))), "mine.py: the gradient in the probes of"),
        (calling, "mine.py is not pure: it answers the same probes in two different ways"),
    ):
        with pytest.raises(UserError, match=told):
            function.try_out(from_function(bad, WEIGHTS, (3,)), zero, "mine.py")


def test_a_file_names_it_and_its_mistakes_are_told_with_their_lines(tmp_path):
    file = tmp_path / "mine.py"

    def named(text, name="spec"):
        file.write_text(textwrap.dedent(text))
        return function.named(f"{file}:{name}")

    good = """
        import numpy as np
        import beside
        from probegen_jax.networks.function import from_function

        def apply(weights, probes):
            return beside.SCALE * probes @ weights["kernel"]

        spec = from_function(apply, {"kernel": np.zeros((3, 1), np.float32)}, (3,))
    """
    (tmp_path / "beside.py").write_text("SCALE = 2.0")
    spec, other = named(good), named(good.replace("beside.SCALE *", "3 *"))
    assert spec.response_dim == 1 and len(spec.source) == 16
    assert spec.to_json() != other.to_json()
    for text, name, told in (
        ("spec = 1 +", "spec", "mine.py, line 1: SyntaxError"),
        ("\nraise ValueError('so')", "spec", "mine.py, line 2: ValueError: so"),
        ("other = 1", "spec", "mine.py: has no spec; give the name of a NetworkSpec"),
        ("spec = len", "spec", "mine.py: spec is a builtin_function_or_method"),
        (good.replace("@", "*"), "spec", "mine.py: the function apply .*line 7.* fails"),
    ):
        with pytest.raises(UserError, match=told) as error:
            named(text, name)
        assert "\n" not in str(error.value)
    for text, told in (
        ("mine.py", "network is 'mine.py'; give a file and a name in it, as my_network.py:spec"),
        (f"{tmp_path}/none.py:spec", "cannot be read"),
    ):
        with pytest.raises(UserError, match=told):
            function.named(text)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"bias": None}, "lacks the array bias"),
        ({"more": np.ones(1, np.float32)}, "the function does not know, the array more"),
        ({"bias": np.ones(3, np.float32)}, r"bias has shape \(3,\), the function's weights \(2,\)"),
        ({"bias": np.float32([0, np.nan])}, "bias holds NaN"),
    ],
)
def test_a_file_of_other_weights_is_told(change, told):
    state = {key: leaf for key, leaf in (WEIGHTS | change).items() if leaf is not None}
    with pytest.raises(BadNetworkError, match=told):
        from_function(linear, WEIGHTS, (3,)).read(state, None, "a", ReadOptions())
