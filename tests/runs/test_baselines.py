"""Methods to compare ProbeGen with, as whole runs."""

import json

import numpy as np
import pytest
from small_run import go_on, make_zoo, stopped_at

import probegen_jax
from probegen_jax import settings
from probegen_jax.errors import UserError
from probegen_jax.method.generators import coordinates
from probegen_jax.runs.folder import differences


def test_pixels_are_trained_on_and_predicted_for(tmp_path):
    """Every network answers once, at all pixels; what is asked for again goes on or is finished."""
    run = go_on(tmp_path / "run", method="pixels", pixels_size=2)
    assert (run.result["num_probes"], run.result["steps"]) == (4, 18)
    np.testing.assert_allclose(run.probes_SxP[0], [[-1, -1], [1, -1], [-1, 1], [1, 1]])
    zoo = make_zoo()
    again = probegen_jax.load(tmp_path / "run", zoo=zoo)
    assert again.evaluate(zoo) == [run.result["seeds"][0]["last"]["test"]]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["num_probes"] == 4


def test_fixed_probes_that_have_changed_are_told(tmp_path, monkeypatch):
    """Networks answer them before the checkpoint is read: it must have been the same ones."""
    with stopped_at(8):
        go_on(tmp_path / "run", method="pixels", pixels_size=2)
    spread = coordinates.jnp.linspace
    with monkeypatch.context() as patch:
        patch.setattr(coordinates.jnp, "linspace", lambda a, b, n: spread(a, b / 2, n))
        with pytest.raises(UserError, match="have changed since this run began; put back those"):
            go_on(tmp_path / "run", method="pixels", pixels_size=2)
    assert go_on(tmp_path / "run", method="pixels", pixels_size=2).result["steps"] == 18


@pytest.mark.parametrize("key", ["pixels_size", "readout"])
def test_a_run_from_before_a_setting_has_its_default(key):
    ours = settings.defaults("mine").to_dict() | {"method": "pixels"}
    theirs = {name: value for name, value in ours.items() if name != key}
    assert differences(theirs, ours) == []
    assert len(differences(theirs, ours | {key: "other"})) == 1


def test_settings_of_other_methods_make_no_other_run():
    ours = settings.defaults("mine").to_dict() | {"method": "vanilla"}
    assert differences(ours, ours | {"pixels_size": 8, "latent_dim": 3}) == []
    assert len(differences(ours, ours | {"head_width": 8})) == 1
