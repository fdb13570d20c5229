"""Agreement with the official PyTorch implementation, on figures measured there.

`golden/*.npz` hold those cases: `initial/` and `final/` parameters by official name, the zoo
`networks/`, and what was `expected` of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPO
from flax import nnx

from probegen_jax.method.generators.coordinates import DeepLinear, Vanilla
from probegen_jax.method.learning import Learner, TrainState, adam_cosine
from probegen_jax.method.model import ProbeGen
from probegen_jax.method.readouts.outputs import Head
from probegen_jax.method.tasks import cross_entropy
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.official import parameters

pytestmark = pytest.mark.optimized

GOLDEN = REPO / "tests" / "golden"
NUM_PROBES, HEAD_WIDTH, HEAD_DEPTH, LEARNING_RATE, STEPS = 16, 64, 6, 3e-4, 20
SPEC = SirenSpec()


def relative_error(ours, theirs) -> float:
    """Largest deviation, relative to the largest expected magnitude."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def make_generator(case: str, rngs: nnx.Rngs) -> nnx.Module:
    if case == "inr_deep_linear":
        return DeepLinear(NUM_PROBES, SPEC.probe_shape, latent_dim=32, depth=2, rngs=rngs)
    return Vanilla(NUM_PROBES, SPEC.probe_shape, rngs=rngs)


def make_learner(case: str) -> Learner:
    def make_model(key):
        rngs = nnx.Rngs(params=key)
        head = Head(NUM_PROBES, HEAD_WIDTH, HEAD_DEPTH, 10, rngs=rngs)
        return ProbeGen(SPEC, make_generator(case, rngs), head)

    return Learner(make_model, SPEC, cross_entropy, adam_cosine(LEARNING_RATE, total_steps=STEPS))


def load(case: str):
    """The case's arrays as {"initial": {...}, "final": {...}, "expected": {...}} and its zoo."""
    parts = {"initial": {}, "final": {}, "expected": {}}
    networks = {}
    for name, array in np.load(GOLDEN / f"{case}.npz").items():
        part, rest = name.split("/", 1)
        (networks if part == "networks" else parts[part])[rest] = array
    weights = tuple(
        {
            "kernel": np.stack([networks[f"{n}/seq.{layer}.weight"].T for n in range(8)]),
            "bias": np.stack([networks[f"{n}/seq.{layer}.bias"] for n in range(8)]),
        }
        for layer in range(3)
    )
    return parts, jax.tree.map(jnp.asarray, weights)


@pytest.fixture(params=["inr_deep_linear", "inr_vanilla"])
def case(request):
    return request.param


def fresh_state(learner: Learner, params) -> TrainState:
    params = jax.tree.map(jnp.asarray, params)
    return TrainState(params, {}, learner.optimizer.init(params), jnp.zeros((), jnp.int32))


def updates(learner: Learner):
    """One optimiser step on one batch, compiled: to the new state and the mean loss."""
    return jax.jit(lambda state, *batch: learner.improve(state, learner.sums(state, *batch)))


def test_forward_and_gradients(case):
    parts, weights = load(case)
    expected = parts["expected"]
    learner = make_learner(case)
    params = jax.tree.map(jnp.asarray, parameters.from_official(parts["initial"]))
    targets = jnp.asarray(expected["target"], jnp.int32)

    model = nnx.merge(learner.graphdef, params, {})
    probes = model.generator()
    responses = SPEC.respond(weights, probes)
    outputs = model(weights)

    def mean_loss(params):
        return jnp.mean(cross_entropy(learner.outputs(params, {}, weights), targets))

    loss, grads = jax.value_and_grad(mean_loss)(params)
    # The vanilla case's recorded probes are a view of the parameter that training then moved: they
    # equal `final_probes`. What the first step saw is the parameter in `initial`.
    free = "tokens_generator.0.weight" not in parts["initial"]
    first_probes = parts["initial"]["input"] if free else expected["probes"]
    assert relative_error(probes, first_probes) < 1e-5
    assert relative_error(responses, expected["responses"]) < 1e-5
    assert relative_error(outputs, expected["predictions"]) < 1e-5
    assert relative_error(loss, expected["loss"]) < 1e-5
    official_grads = parameters.to_official(grads)
    assert set(official_grads) == {k.removeprefix("grad/") for k in expected if "grad/" in k}
    for name, grad in official_grads.items():
        assert relative_error(grad, expected[f"grad/{name}"]) < 1e-5, name


def test_twenty_training_steps(case):
    """Even steps see the first half of the networks, odd ones the second."""
    parts, weights = load(case)
    expected = parts["expected"]
    learner = make_learner(case)
    state = fresh_state(learner, parameters.from_official(parts["initial"]))
    update = updates(learner)
    half = len(expected["target"]) // 2
    train_losses = []
    for step in range(STEPS):
        rows = jnp.arange(half) + (step % 2) * half
        batch = SPEC.take(weights, rows)
        targets = jnp.asarray(expected["target"][rows], jnp.int32)
        state, loss = update(state, batch, targets, jnp.ones(half, bool))
        train_losses.append(loss)
    np.testing.assert_allclose(train_losses, expected["train_losses"], rtol=1e-5)
    outputs = learner.outputs(state.params, {}, weights)
    assert relative_error(outputs, expected["final_predictions"]) < 1e-4
    final = parameters.from_official(parts["final"])
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(final), strict=True):
        assert relative_error(ours, theirs) < 1e-4


def test_final_checkpoint_predicts_as_there(case):
    parts, weights = load(case)
    learner = make_learner(case)
    params = jax.tree.map(jnp.asarray, parameters.from_official(parts["final"]))
    outputs = learner.outputs(params, {}, weights)
    assert relative_error(outputs, parts["expected"]["final_predictions"]) < 1e-5
    probes = nnx.merge(learner.graphdef, params, {}).generator()
    assert relative_error(probes, parts["expected"]["final_probes"]) < 1e-5


def test_official_parameters_survive_the_round_trip(case):
    parts, _ = load(case)
    back = parameters.to_official(parameters.from_official(parts["initial"]))
    assert set(back) == set(parts["initial"])
    for name, tensor in parts["initial"].items():
        np.testing.assert_array_equal(back[name], tensor)


def test_copies_equal_the_torch_files(case, shared):
    """The arrays kept here are those of the original torch files."""
    torch = pytest.importorskip("torch")
    parts, _ = load(case)
    state = torch.load(shared / "golden" / case / "final.pth", weights_only=True)
    assert set(state) == set(parts["final"])
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensor.numpy(), parts["final"][name])
