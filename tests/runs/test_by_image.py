"""Zoos with several networks of an image: the mean prediction for each image is scored, too."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import small_run
from small_run import go_on

import probegen_jax
from probegen_jax import evaluate
from probegen_jax.errors import UserError
from probegen_jax.method import moves
from probegen_jax.method.moves import Reach
from probegen_jax.report.write import write_report
from probegen_jax.runs import records, scores
from probegen_jax.runs.experiment import load_run
from probegen_jax.zoo import own


def by_images(make=small_run.make_zoo):
    """Random networks, of which those with the same target make threes within each split."""
    zoo, images_N = make(), np.zeros(60, np.int32)
    for rows in zoo.splits.values():
        for target in range(2):
            of = rows[zoo.targets_N[rows] == target]
            images_N[of] = 1000 * target + of[0] + np.arange(len(of)) // 3
    return dataclasses.replace(zoo, images_N=images_N)


def expected(zoo, split, values_NxO):
    rows = zoo.splits[split]
    right = []
    for image in np.unique(zoo.images_N[rows]):
        of = zoo.images_N[rows] == image
        (target,) = set(zoo.targets_N[rows][of])
        right.append(np.argmax(values_NxO[of].mean(axis=0)) == target)
    return np.mean(right)


@pytest.mark.slow
def test_it_is_scored_told_and_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(small_run, "make_zoo", by_images)
    zoo, folder = by_images(), tmp_path / "run"
    result = go_on(folder, num_seeds=2, learning_rate=1e-2).result
    told = capsys.readouterr().out
    for which in ("last", "best"):
        predictor = probegen_jax.load(folder, which=which, zoo=zoo)
        for split in ("val", "test"):
            predictions = predictor.predict_rows(zoo, zoo.splits[split])
            found = [seed[which][f"{split}_by_image"] for seed in result["seeds"]]
            assert found == [expected(zoo, split, each) for each in predictions.values_SxNxO]
            together = result["ensemble"][which][f"{split}_by_image"]
            assert together == expected(zoo, split, predictions.values)
    mean = np.mean([seed["last"]["test_by_image"] for seed in result["seeds"]])
    assert f"({mean:.4f} by image)" in told
    assert evaluate.evaluate(folder, {}, zoo)
    page = write_report([load_run(folder, zoo=zoo)], tmp_path / "page.html").read_text()
    assert "test by image, last" in page
    # A result of an earlier version, which has no such figures, is not one that differs.
    path, content = folder / "result.json", json.loads((folder / "result.json").read_text())
    changed = json.loads(json.dumps(content))
    changed["seeds"][0]["last"]["test_by_image"] = 2.0
    path.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="was changed after the training wrote it"):
        records.read_result(folder)
    del content["digest"]
    every = [seed[which] for seed in content["seeds"] for which in ("last", "best")]
    for figures in (*every, *content["ensemble"].values()):
        del figures["val_by_image"], figures["test_by_image"]
    path.write_text(json.dumps(records.sign(content)))
    assert evaluate.evaluate(folder, {}, zoo)


@pytest.mark.slow
def test_views_of_networks_are_scored_with_them(tmp_path):
    zoo, folder = small_run.make_zoo(), tmp_path / "run"
    settings = {"augment_shift": 0.4, "augment_flip": True, "learning_rate": 1e-2, "num_seeds": 2}
    result = go_on(folder, **settings, test_views=3).result
    plain = go_on(tmp_path / "plain", **settings).result
    assert evaluate.evaluate(folder, {}, zoo)
    run = load_run(folder, zoo=zoo)
    rows = zoo.splits["test"]
    views_KxSxNxO, outputs_SxNxO = run.views(rows), run.outputs(rows)
    assert views_KxSxNxO.shape == (3, *outputs_SxNxO.shape)
    spread = np.std(views_KxSxNxO, axis=0).min(axis=(1, 2))
    assert (spread > 0).all()
    weights = moves.moved(Reach(0.4, flip=True), zoo.spec, zoo.read(rows), 2)
    other = probegen_jax.load(folder, zoo=zoo).predict(weights).values_SxNxO
    np.testing.assert_allclose(jax.nn.softmax(views_KxSxNxO[2]), other, atol=1e-6)
    for seed, theirs in enumerate(plain["seeds"]):
        all_VxNxO = np.concatenate([outputs_SxNxO[seed][None], views_KxSxNxO[:, seed]])
        mean_NxO = np.asarray(jax.nn.softmax(all_VxNxO), np.float64).mean(axis=0)
        own = result["seeds"][seed]["last"]
        assert own["test_by_image"] == np.mean(mean_NxO.argmax(axis=1) == zoo.targets_N[rows])
        # All else is as it is without.
        assert {key: own[key] for key in theirs["last"]} == theirs["last"]


def test_views_need_to_know_how_networks_are_moved(tmp_path):
    with pytest.raises(UserError, match="test_views is 2, but nothing says how networks are moved"):
        go_on(tmp_path / "run", test_views=2)
    with pytest.raises(UserError, match="test_views is -1; it must be finite and not negative"):
        go_on(tmp_path / "run", test_views=-1)


def test_values_are_averaged_and_zoos_without_are_as_before():
    plain = small_run.make_zoo()
    targets_N = np.linspace(-1, 1, 60).astype(np.float32)
    zoo = own.from_arrays("mine", plain.spec, plain.weights, targets_N, task="regression")
    rows = zoo.splits["test"]
    images_N = np.zeros(60, np.int32)
    images_N[rows] = np.arange(len(rows)) // 2
    noise_N = 3.0 * (-1.0) ** np.arange(len(rows))
    outputs_SxNxO = (targets_N[rows] + noise_N).astype(np.float32)[None, :, None]
    (found,) = scores.of_seeds(zoo, [1], {"test": outputs_SxNxO})
    assert set(found) == {"step", "test"} and found["test"] < 0.6
    several = dataclasses.replace(zoo, images_N=images_N)
    (found,) = scores.of_seeds(several, [1], {"test": outputs_SxNxO})
    assert found["test_by_image"] == pytest.approx(1.0)
    together = scores.of_ensemble(several, {"test": outputs_SxNxO})
    assert together["test_by_image"] == pytest.approx(1.0)
