"""How many networks run side by side: measured, remembered, and the same figures in any case."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPO

from probegen_jax import settings, train
from probegen_jax.factory.builtin import digits
from probegen_jax.networks.cnn.published import small_cnn_zoo
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.training import tuning

SPECS = [SirenSpec(hidden=(8,)), small_cnn_zoo("relu")]


def stacked(spec, number):
    return jax.vmap(spec.init)(jax.random.split(jax.random.key(0), number))


@pytest.mark.parametrize("spec", SPECS, ids=["siren", "cnn"])
@pytest.mark.parametrize("block_size", [1, 4])
def test_any_block_size_gives_the_same_responses_and_gradients(spec, block_size):
    weights = stacked(spec, 5)
    probes = jax.random.uniform(jax.random.key(1), (3, *spec.probe_shape), minval=-1.0)

    def run(spec):
        def loss(probes):
            responses = spec.respond(weights, probes)
            return jnp.sum(jnp.square(responses)), responses

        return jax.jit(jax.grad(loss, has_aux=True))(probes)

    for expected, found in zip(
        run(spec), run(dataclasses.replace(spec, block_size=block_size)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_fastest_is_found_and_remembered(tmp_path, monkeypatch):
    memory = tmp_path / "folder" / "tuning.json"
    spec = SirenSpec()
    weights = stacked(spec, 32)
    found = tuning.block_size(spec, weights, 16, memory)
    assert found in (None, 1, 4, 16)
    (remembered,) = json.loads(memory.read_text()).values()
    assert remembered == found
    monkeypatch.setattr(tuning, "_fastest", lambda *args: pytest.fail("measured again"))
    assert tuning.block_size(spec, weights, 16, memory) == found
    # What it was measured with says nothing of the zoo.
    again = dataclasses.replace(spec, block_size=4)
    assert tuning.block_size(again, weights, 16, memory) == found
    with pytest.raises(pytest.fail.Exception):
        tuning.block_size(spec, weights, 17, memory)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [({None: 1.0, 1: 0.9, 4: 1.2}, None), ({None: 1.0, 1: 0.9, 4: 0.5, 16: 0.6}, 4)],
)
def test_only_what_is_clearly_faster_replaces_the_default(seconds, expected):
    assert tuning._clearly_best(seconds) == expected


@pytest.mark.slow  # trainings
def test_a_run_keeps_what_it_began_with(tmp_path, digits_dir, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "WORTHWHILE", 1)
    monkeypatch.setattr(tuning, "_fastest", lambda *args: 4)
    zoo = digits.load(digits_dir)
    assert tuning.block_size_of_run(tmp_path, zoo, 32, 16, total_steps=10) == 4
    monkeypatch.setattr(tuning, "_fastest", lambda *args: 16)
    assert tuning.block_size_of_run(tmp_path, zoo, 32, 16, total_steps=10) == 4
    (tmp_path / "tuning.json").unlink()
    # The user's cache has it.
    assert tuning.block_size_of_run(tmp_path, zoo, 32, 16, total_steps=10) == 4
    assert tuning.block_size_of_run(tmp_path / "short", zoo, 32, 16, total_steps=0) is None
    options = ("--config.num_epochs=1", "--config.num_seeds=1", "--config.report=False")
    arguments = [f"--config={REPO}/configs/digits.py:16", f"--config.data_dir={digits_dir}"]
    values = settings.parse(["train", *arguments, *options], "")
    result = train.train(values.config, str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "tuning.json").read_text()) == {"block_size": 4}
    assert result["mean"] > 0.2  # chance is 0.1


def test_a_memory_that_cannot_be_read_or_written_costs_nothing_but_time(tmp_path):
    (tmp_path / "file").write_text("no folder")
    spec = SirenSpec(hidden=(8,))
    assert tuning.block_size(spec, stacked(spec, 2), 4, tmp_path / "file" / "t.json") in (None, 1)
    (tmp_path / "broken.json").write_text("{")
    assert tuning.block_size(spec, stacked(spec, 2), 4, tmp_path / "broken.json") in (None, 1)
