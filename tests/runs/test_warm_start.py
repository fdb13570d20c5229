"""Trainings that start with another run's parameters."""

import shutil

import jax
import numpy as np
import pytest
from small_run import go_on, make_zoo, stopped_at

from probegen_jax.errors import UserError
from probegen_jax.runs.experiment import load_run
from probegen_jax.runs.warm_start import warm
from probegen_jax.trees import named


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm") / "start"
    go_on(folder, num_seeds=2, ema=0.5)
    return folder


def fresh(**changes):
    """Parameters of three seeds."""
    shapes = {"generator.latents": (3, 4, 32), "head.layers.0.kernel": (3, 4, 4)}
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape) for name, shape in (shapes | changes).items()}


def test_what_fits_is_taken_seed_after_seed(start):
    best = named(load_run(start, zoo=make_zoo()).best_params)
    other = fresh(**{"head.layers.0.kernel": (3, 5, 4), "head.layers.0.bias": (3, 4)})
    params, line = warm(other, start)
    params = named(params)
    for name in ("generator.latents", "head.layers.0.bias"):
        np.testing.assert_array_equal(params[name], np.asarray(best[name])[[0, 1, 0]])
    name = "head.layers.0.kernel"
    np.testing.assert_array_equal(params[name], other[name])
    assert line.endswith(f"2 of 3 arrays are taken; fresh: {name}")


@pytest.mark.slow
def test_a_run_starts_there_and_goes_on_bit_for_bit(start, tmp_path, capsys):
    levers = {"num_seeds": 2, "init_from": str(start), "ema": 0.5}
    with stopped_at(1):
        go_on(tmp_path / "parts", **levers, learning_rate=1e-9)
    told = capsys.readouterr().out
    assert f"starting from {start}: " in told and "nothing is fresh" in told
    # It goes on from its own checkpoint: the run that it started from may be gone.
    moved = {**levers, "init_from": str(tmp_path / "gone" / start.name)}
    with stopped_at(3):
        go_on(tmp_path / "parts", **levers, learning_rate=1e-9)
    go_on(tmp_path / "parts", **moved, learning_rate=1e-9)
    go_on(tmp_path / "whole", **levers, learning_rate=1e-9)
    first, parts, whole = (
        load_run(each, zoo=make_zoo()) for each in (start, tmp_path / "parts", tmp_path / "whole")
    )
    jax.tree.map(np.testing.assert_array_equal, parts.state, whole.state)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole.params(), first.best_params
    )
    with pytest.raises(UserError, match=r"another config: init_from \('start' there, 'other' here"):
        go_on(tmp_path / "whole", **{**levers, "init_from": "other"}, learning_rate=1e-9)


def test_what_cannot_be_started_from_is_told(start, tmp_path):
    with pytest.raises(UserError, match=r"none of its parameters has the name and shape of one"):
        warm({"generator": {"latents": np.zeros((1, 7, 32))}}, start)
    with pytest.raises(UserError, match=r"nowhere is not a run folder"):
        go_on(tmp_path / "run", init_from=str(tmp_path / "nowhere"))
    assert not (tmp_path / "run" / "config.json").exists()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text((start / "config.json").read_text())
    with pytest.raises(UserError, match=r"begun, which has no checkpoint in .*; give another"):
        warm(fresh(), tmp_path / "begun")


def test_a_run_of_which_a_bit_has_flipped_is_not_started_from(start, tmp_path):
    """In its arrays, as far as Orbax can tell; in what lies beside them."""
    run = shutil.copytree(start, tmp_path / "run")
    steps = sorted((run / "checkpoints").iterdir())
    shutil.rmtree(steps[1] / "arrays")
    shutil.copytree(steps[0] / "arrays", steps[1] / "arrays")
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*it holds other values"):
        warm(fresh(), run)
    shutil.copytree(start, run, dirs_exist_ok=True)
    facts = steps[1] / "facts" / "metadata"
    facts.write_text(facts.read_text().replace('"step": 18', '"step": 19'))
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*it holds other values"):
        warm(fresh(), run)
