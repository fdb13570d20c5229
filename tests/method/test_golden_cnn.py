"""Agreement with the official PyTorch implementation on image networks, on figures measured there.

The cases lie beside the repo: their generators are megabytes. They were measured on the official
code, so CIFAR10-GS networks run with padding 1 here, and the Wild Park's have no residual links.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_golden import fresh_state, relative_error, updates

from probegen_jax.method.learning import Learner, adam_cosine
from probegen_jax.method.model import ProbeGen, make_generator
from probegen_jax.method.readouts.outputs import Head
from probegen_jax.method.tasks import squared_error
from probegen_jax.networks.cnn import published
from probegen_jax.networks.cnn.state_dict import from_torch
from probegen_jax.networks.mixed_cnn import mixed
from probegen_jax.official import parameters
from probegen_jax.zoo.files import torch_files

pytestmark = pytest.mark.optimized

CASES = (
    "cifar10_gs_deep_linear_6",
    "cifar10_gs_vanilla",
    pytest.param("cifar10_wild_park_deep_linear_5", marks=pytest.mark.slow),
    "cifar10_wild_park_vanilla",
)
# Run in the forms that are for accelerators, but here.
ON_ACCELERATORS = (
    "cifar10_wild_park_vanilla on a gpu",
    pytest.param("cifar10_wild_park_vanilla on a tpu", marks=pytest.mark.slow),
)
LATENT_DIM, WIDTH = 32, 16


class Case:
    """One golden case: what was measured, its zoo, and a learner of the same shape."""

    def __init__(self, folder, platform="cpu"):
        torch = pytest.importorskip("torch")
        self.meta = json.loads((folder / "meta.json").read_text())
        self.expected = dict(np.load(folder / "expected.npz"))
        self.states = {
            which: {
                name: tensor.numpy()
                for name, tensor in torch.load(folder / f"{which}.pth", weights_only=True).items()
            }
            for which in ("initial", "final")
        }
        count = self.meta["n_networks"]
        files = [
            torch_files.load_cnn(folder / "networks" / f"model_{n}.pth", str(n))
            for n in range(count)
        ]
        networks = [from_torch(file.state) for file in files]
        if self.meta["family"] == "cifar10_gs":
            self.spec = published.small_cnn_zoo(fidelity="official")
            for network, file in zip(networks, files, strict=True):
                place = self.spec.activations.index(file.config["activation"])
                network["activation"] = np.int32(place)
            weights = jax.tree.map(lambda *leaves: np.stack(leaves), *networks)
        else:
            specs = [published.wild_park(file.config, "official") for file in files]
            self.spec, weights = mixed.build(specs, networks)
            self.spec = dataclasses.replace(self.spec, platform=platform)
        self.weights = jax.tree.map(jnp.asarray, weights)
        self.learner = Learner(
            self.make_model,
            self.spec,
            squared_error,
            adam_cosine(self.meta["lr"], self.meta["steps"]),
        )

    def make_model(self, key):
        rngs = nnx.Rngs(params=key)
        depth = int(self.meta["generator"].rsplit("_", 1)[1])
        settings = {
            "method": "probegen" if depth else "vanilla",
            "num_probes": self.meta["n_probes"],
            "latent_dim": LATENT_DIM,
            "generator_depth": depth,
            "generator_width": WIDTH,
        }
        generator = make_generator(settings, self.spec.probe_shape, rngs=rngs)
        responses = self.meta["n_probes"] * self.spec.response_dim
        head = Head(responses, self.meta["d_hidden"], self.meta["head_layers"], 1, rngs=rngs)
        return ProbeGen(self.spec, generator, head)

    def params(self, which):
        return jax.tree.map(jnp.asarray, parameters.from_official(self.states[which]))

    @property
    def targets(self):
        return jnp.asarray(self.expected["target"].ravel(), jnp.float32)


@pytest.fixture(scope="module", params=CASES + ON_ACCELERATORS)
def case(request, shared):
    name, _, platform = request.param.partition(" on a ")
    return Case(shared / "golden" / name, platform or "cpu")


def test_forward_and_gradients(case):
    expected, learner = case.expected, case.learner
    params = case.params("initial")
    model = nnx.merge(learner.graphdef, params, {})
    probes = model.generator()
    assert relative_error(probes.transpose(0, 3, 1, 2), expected["probes"]) < 1e-5
    responses = jax.jit(lambda weights, probes: case.spec.respond(weights, probes))(
        case.weights, probes
    )
    assert relative_error(responses, expected["responses"]) < 1e-5

    @jax.jit
    def outputs_loss_and_grads(params):
        def mean_loss(params):
            outputs = learner.outputs(params, {}, case.weights)
            return jnp.mean(squared_error(outputs, case.targets)), outputs

        return jax.value_and_grad(mean_loss, has_aux=True)(params)

    (loss, outputs), grads = outputs_loss_and_grads(params)
    assert relative_error(outputs.ravel(), expected["predictions"].ravel()) < 1e-5
    assert relative_error(loss, expected["loss"]) < 1e-5
    official_grads = parameters.to_official(grads)
    assert set(official_grads) == {k.removeprefix("grad/") for k in expected if "grad/" in k}
    for name, grad in official_grads.items():
        assert relative_error(grad, expected[f"grad/{name}"]) < 1e-5, name


def test_twenty_training_steps(case):
    """Even steps see the first half of the networks, odd ones the second."""
    expected, learner = case.expected, case.learner
    state = fresh_state(learner, parameters.from_official(case.states["initial"]))
    update = updates(learner)
    half = len(expected["target"]) // 2
    train_losses = []
    for step in range(case.meta["steps"]):
        rows = jnp.arange(half) + (step % 2) * half
        batch = case.spec.take(case.weights, rows)
        state, loss = update(state, batch, case.targets[rows], jnp.ones(half, bool))
        train_losses.append(loss)
    np.testing.assert_allclose(train_losses, expected["train_losses"], rtol=1e-5)
    outputs = jax.jit(learner.outputs)(state.params, {}, case.weights)
    assert relative_error(outputs.ravel(), expected["final_predictions"].ravel()) < 1e-4


def test_final_checkpoint_predicts_as_there(case):
    params = case.params("final")
    outputs = jax.jit(case.learner.outputs)(params, {}, case.weights)
    assert relative_error(outputs.ravel(), case.expected["final_predictions"].ravel()) < 1e-5
    probes = nnx.merge(case.learner.graphdef, params, {}).generator()
    assert relative_error(probes.transpose(0, 3, 1, 2), case.expected["final_probes"]) < 1e-5


def test_official_parameters_survive_the_round_trip(case):
    back = parameters.to_official(parameters.from_official(case.states["initial"]))
    assert set(back) == set(case.states["initial"])
    for name, tensor in case.states["initial"].items():
        np.testing.assert_array_equal(back[name], tensor)
