"""A method of one's own: a class and an entry, and nothing else."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPO
from flax import nnx

from probegen_jax import settings
from probegen_jax.errors import UserError
from probegen_jax.method import learning
from probegen_jax.method.generators.base import Generator
from probegen_jax.method.generators.registry import METHODS, Entry, Method, entry, title
from probegen_jax.method.layers import dense
from probegen_jax.method.model import make_generator
from probegen_jax.networks.cnn.published import small_cnn_zoo
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.runs import experiment
from probegen_jax.runs.experiment import make_learner, probe_images
from probegen_jax.zoo.zoo import Zoo

CONFIG = """
from configs import digits

def get_config(arg=""):
    config = digits.get_config(arg)
    config.tanh_width, config.tanh_reach = 6, 1.5
    return config
"""
SMALL = ("num_epochs=10", "batch_size=8", "head_width=16", "head_depth=2", "learning_rate=0.01")


class Tanh(Generator):
    """Free latents, and tanh between layers: no probe leaves the square of ±reach."""

    def __init__(self, num_probes, probe_shape, *, width, reach, rngs):
        self.latents = nnx.Param(jax.random.normal(rngs.params(), (num_probes, width)))
        shape = (width, width, *probe_shape)
        self.layers = nnx.List(dense(shape[i], shape[i + 1], rngs=rngs) for i in (0, 1))
        self.reach = reach

    def __call__(self):
        return self.reach * jnp.tanh(self.layers[1](jnp.tanh(self.layers[0](self.latents[...]))))


@pytest.fixture
def tanh(monkeypatch):
    own = Entry(f"{__name__}:Tanh", {"width": "tanh_width", "reach": "tanh_reach"})
    monkeypatch.setitem(METHODS, "tanh", Method("tanh layers", {"coordinates": own}))


def parse(tmp_path, *overrides, text=CONFIG):
    path = tmp_path / "mine.py"
    path.write_text(text)
    argv = [f"--config={path}:tanh,5", *(f"--config.{override}" for override in overrides)]
    return settings.parse(["train", *argv], "").config


@pytest.fixture
def in_repo(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO))


def test_a_generator_of_ones_own_is_trained_by_its_settings(tanh, in_repo, tmp_path):
    config = parse(tmp_path, *SMALL, "num_seeds=2")
    spec = SirenSpec(hidden=(8,))
    weights = jax.vmap(spec.init)(jax.random.split(jax.random.key(0), 24))
    rows = np.arange(24, dtype=np.int32)
    splits = {"train": rows[:16], "val": rows[16:20], "test": rows[20:]}
    zoo = Zoo("own", spec, weights, np.arange(24) % 3, splits, "classification", 3)
    assert probe_images(config, spec) is None
    assert entry(config.method, spec.probe_shape).trained and title(config.method) == "tanh layers"
    learner = make_learner(config, zoo, None)
    keys_S = jax.vmap(jax.random.key)(jnp.arange(2))
    state = first = jax.jit(learner.init)(keys_S)
    assert not learning.probes_are_fixed(state)
    generator = state.params["generator"]
    assert generator["latents"].shape == (2, 5, 6)
    x_PxW = generator["latents"][1]
    for layer in generator["layers"].values():
        x_PxW = jnp.tanh(x_PxW @ layer["kernel"][1] + layer["bias"][1][None])
    np.testing.assert_allclose(learner.probes(state)[1], 1.5 * x_PxW, rtol=1e-5)

    rows_SxTxB = jnp.broadcast_to(learning.in_batches(rows[:16], 8), (2, 2, 8))
    run = jax.jit(lambda *args: learning.train_steps(learner, *args))
    losses = []
    for _ in range(10):
        state, losses_SxT = run(
            state, jnp.zeros((2, 2)), weights, jnp.asarray(zoo.targets_N, jnp.int32), rows_SxTxB,
            *map(jnp.int32, (0, 0, 2)),
        )  # fmt: skip
        losses.append(float(losses_SxT.mean()))
    assert losses[-1] < 0.95 * losses[0]
    moved = jnp.abs(learner.probes(state) - learner.probes(first)).max(axis=(1, 2))
    assert (moved > 1e-3).all()


@pytest.mark.parametrize("platform", [None, "gpu", "tpu"])
def test_networks_and_generator_are_told_the_platform(platform, in_repo, monkeypatch):
    spec = small_cnn_zoo(("relu", "tanh"))
    weights = jax.device_get(jax.vmap(spec.init)(jax.random.split(jax.random.key(0), 3)))
    splits = {name: np.array([n], np.int32) for n, name in enumerate(("train", "val", "test"))}
    zoo = Zoo("own", spec, weights, np.ones(3, np.float32), splits, "regression", 1)
    config = settings.parse(["train", f"--config={REPO}/configs/cifar10_gs.py:probegen,4"], "")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # what None stands for
    made = experiment.set_up(config.config, zoo, platform)
    for found in (made, experiment.with_block_size(made, None)):
        model = nnx.eval_shape(lambda found=found: found.learner.make_model(jax.random.key(0)))
        told = {found.platform, found.zoo.spec.platform, model.spec.platform}
        assert (
            told == {model.generator.platform, found.learner.spec.platform} == {platform or "gpu"}
        )


def test_settings_of_a_method_are_checked_for_that_method_alone(tanh, in_repo, tmp_path):
    with pytest.raises(UserError, match="tanh_width is 0; give at least 1"):
        parse(tmp_path, "tanh_width=0")
    assert parse(tmp_path, "tanh_reach=0.5", "latent_dim=0").tanh_reach == 0.5
    with pytest.raises(UserError, match=r"latent_dim is 0; give at least 1"):
        parse(tmp_path, "method=probegen", "latent_dim=0")
    with pytest.raises(UserError, match=r"mine.py: the config lacks the key 'tanh_reach'"):
        parse(tmp_path, text="from configs.digits import get_config")


def test_an_entry_says_rightly_whether_probes_are_trained(monkeypatch):
    values = {"num_probes": 4, "latent_dim": 4, "generator_depth": 3, "generator_width": 2}
    values["pixels_size"] = 2
    for name, method in METHODS.items():
        for kind, each in method.entries.items():
            shape = (8, 8, 1) if kind == "images" else (2,)
            images = (
                np.zeros((4, *shape), np.float32) if name in ("dead_leaves", "images") else None
            )
            generator = make_generator(
                values | {"method": name}, shape, images=images, rngs=nnx.Rngs(params=0)
            )
            assert type(generator) is each.generator
            assert generator().shape == (4 if method.readout is None else 0, *shape)
    wrong = Entry(METHODS["vanilla"].entries["coordinates"].path, trained=False)
    monkeypatch.setitem(METHODS, "wrong", Method("wrong", {"coordinates": wrong}))
    with pytest.raises(ValueError, match="trained=False, which is not so"):
        make_generator(values | {"method": "wrong"}, (2,), rngs=nnx.Rngs(params=0))


def test_methods_are_known_without_jax():
    program = (
        "import sys\n"
        "from probegen_jax import settings\n"
        "from probegen_jax.method.generators import registry\n"
        "probes = ['probegen', 'vanilla', 'uniform', 'pixels', 'dead_leaves', 'images']\n"
        "assert list(registry.METHODS) == [*probes, 'flat', 'statnn']\n"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPO)


def test_a_run_of_a_method_that_is_no_longer_known_keeps_its_name():
    assert title("uniform") == "random points"
    assert title("gone") == "gone"
