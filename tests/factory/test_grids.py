"""Signals, volumes and values at points: read, fitted, trained on, or told what is wrong."""

import dataclasses
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import probegen_jax
from probegen_jax import build_zoo, settings
from probegen_jax.errors import UserError
from probegen_jax.export import main as export
from probegen_jax.factory.images import sources
from probegen_jax.factory.inr import build_inr, fields, fit
from probegen_jax.predict import main as predict
from probegen_jax.runs.zoo_from_config import from_config
from probegen_jax.train import main as train
from probegen_jax.zoo.prepared import build_folder, built_zoos
from probegen_jax.zoo.prepared.reading import read

RNG = np.random.default_rng(0)
NUMBER = 30
LABELS = np.arange(NUMBER) % 3


def shapes(number, side):
    """Spheres, boxes and tori at random places, turned at random: occupied or not."""
    rng, axis, labels = np.random.default_rng(0), np.linspace(-1, 1, side), np.arange(number) % 3
    at = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    occupied = np.zeros((number, side, side, side), bool)
    for n, label in enumerate(labels):
        center, size = rng.uniform(-0.2, 0.2, 3), rng.uniform(0.4, 0.7)
        sides = rng.uniform(0.2, 0.7, 3)
        x, y, z = np.moveaxis((at - center) @ np.linalg.qr(rng.standard_normal((3, 3)))[0], -1, 0)
        occupied[n] = [
            np.sqrt(x**2 + y**2 + z**2) < size,
            (abs(x) < sides[0]) & (abs(y) < sides[1]) & (abs(z) < sides[2]),
            np.hypot(np.hypot(x, y) - size, z) < 0.4 * size,
        ][label]
    return occupied, labels


def tones(number, length=48):
    """Sounds of three pitches, with a phase of their own."""
    t, labels = np.linspace(0, 1, length), np.arange(number) % 3
    phase = np.random.default_rng(0).uniform(0, 6, (number, 1))
    return np.sin(2 * np.pi * (2 + labels[:, None]) * t + phase).astype(np.float32) / 2, labels


def write(kind, path, number=NUMBER):
    """A source of that kind; returns what `--images` says of it."""
    if kind == "signals":
        values, labels = tones(number)
    else:
        values, labels = shapes(number, 7)
    if kind == "points":
        axis = np.linspace(-1, 1, 7, dtype=np.float32)
        at = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
        inside = values.reshape(number, -1).astype(np.float32)
        np.savez(path, points=at, values=inside * 2 - 1, labels=labels)  # as a sign distance is
    else:
        np.savez(path, **{kind: values}, labels=labels)
    return f"{kind}:{path}"


def build(source, out, *flags):
    build_zoo.main(["x", "inr", f"--images={source}", f"--out={out}", *flags])


UNDERSTOOD = {
    "signals": (
        (48, 1), 1, True, "signals of a: 26 to train on, 4 to test on (drawn by seed), 48 values,",
    ),
    "volumes": (
        (7, 7, 7, 1), 3, False, "volumes of a: 26 to train on, 4 to test on (drawn by seed), "
        "7×7×7 voxels, 1 channel, 3 classes: 0, 1, 2",
    ),
    "points": (
        (343, 1), 3, True, "fields of a: 26 to train on, 4 to test on (drawn by seed), "
        "343 points of 3 coordinates,",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNDERSTOOD)
def test_what_is_in_a_file_is_understood(kind, tmp_path):
    found = sources.load(write(kind, tmp_path / "a.npz"))
    shape, dims, signed, summary = UNDERSTOOD[kind]
    assert (found.image_shape, found.dims, found.signed) == (shape, dims, signed)
    assert found.summary().startswith(summary)
    values, labels = tones(NUMBER) if kind == "signals" else shapes(NUMBER, 7)
    values = values.reshape(NUMBER, -1).astype(np.float32)
    values = values * 2 - 1 if kind == "points" else values
    parts = found.train, found.test
    ours = np.concatenate([sources.scaled(part.images).reshape(len(part), -1) for part in parts])
    classes = np.concatenate([part.labels for part in parts])
    assert sorted(zip(map(bytes, ours), classes.tolist(), strict=True)) == sorted(
        zip(map(bytes, values), labels.tolist(), strict=True)
    )


def test_arrays_of_one_file_each_and_parts_with_channels_first(tmp_path, capsys):
    values, labels = shapes(NUMBER, 7)
    np.save(tmp_path / "a.npy", values.astype(np.uint8))
    np.save(tmp_path / "a_labels.npy", labels)
    np.savez(tmp_path / "b.npz", volumes=values, labels=labels)
    of_npy, of_npz = (sources.load(f"volumes:{tmp_path / name}") for name in ("a.npy", "b.npz"))
    assert of_npy.digest == of_npz.digest and of_npy.name == "a"
    sounds, pitches = tones(NUMBER)
    np.savez(
        tmp_path / "c.npz",
        train_signals=(sounds[:20, None] * 2**15).astype(np.int16),
        train_labels=pitches[:20],
        test_signals=(sounds[20:, None] * 2**15).astype(np.int16),
        test_labels=pitches[20:],
    )
    found = sources.load(f"signals:{tmp_path / 'c.npz'}")
    assert (len(found.train), len(found.test), found.image_shape) == (20, 10, (48, 1))
    assert "(20, 1, 48) are read as (N, C, …), channels first" in capsys.readouterr().out
    np.testing.assert_allclose(found.train.images[..., 0], sounds[:20], atol=2**-14)


POINTS = {"points": np.zeros((NUMBER, 9, 3)), "values": np.zeros((NUMBER, 9)), "labels": LABELS}
GRID = np.zeros((NUMBER, 7, 7, 7), np.float32)
NAN = GRID.copy()
NAN[5, 0, 0, 0] = np.nan
BAD = {
    "images": ("volumes", {"volumes": GRID[:, 0], "labels": LABELS}, r"volumes have shape \(30, 7, "
               r"7\); give \(N, D, H, W\) or \(N, D, H, W, C\)"),
    "a volume": ("signals", {"signals": GRID, "labels": LABELS}, r"signals have shape \(30, 7, 7"),
    "NaN": ("volumes", {"volumes": NAN, "labels": LABELS}, "volumes of number 5 hold NaN or inf"),
    "a large range": ("volumes", {"volumes": GRID + 9, "labels": LABELS},
                      r"go from 9 to 9; scale them to \[-1, 1\]"),
    "numbers": ("volumes", {"volumes": GRID.astype(int) + 2, "labels": LABELS},
                "volumes are int64 from 2 to 2; give 0 and 1"),
    "text": ("signals", {"signals": np.full((30, 4), "a"), "labels": LABELS}, "signals are <U1"),
    "no labels": ("volumes", {"volumes": GRID}, "holds volumes; it needs volumes and labels"),
    "few labels": ("volumes", {"volumes": GRID, "labels": LABELS[1:]}, "but there are 30 volumes"),
    "no points": ("points", {"values": GRID, "labels": LABELS},
                  "needs values and labels and points"),
    "other points": ("points", POINTS | {"points": np.zeros((8, 3))}, "points have shape"),
    "four coordinates": ("points", POINTS | {"points": np.zeros((9, 4))},
                         "points have 4 coordinates; give 1 to 3"),
    "far points": ("points", POINTS | {"points": np.full((9, 3), 50.0)}, "points go from 50 to 50"),
    "NaN at a point": ("points", POINTS | {"values": np.full((NUMBER, 9), np.nan)},
                       "values of number 0 hold NaN"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_no_field_can_draw_is_told(case, tmp_path):
    kind, arrays, told = BAD[case]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=told) as error:
        sources.load(f"{kind}:{tmp_path / 'a.npz'}")
    assert "\n" not in str(error.value)


def test_what_does_not_go_with_volumes_is_told(tmp_path):
    source, out = write("volumes", tmp_path / "a.npz"), f"--out={tmp_path / 'zoo'}"
    with pytest.raises(UserError, match=r"--resize is for images, not for volumes:"):
        build(source, tmp_path / "zoo", "--resize=8")
    with pytest.raises(UserError, match=r"are no images, and CNNs are trained on images"):
        build_zoo.main(["x", "cnn", f"--images={source}", "--num=3", out])
    with pytest.raises(UserError, match=r"b\.npy: there is no such file"):
        sources.load(f"volumes:{tmp_path / 'b.npy'}")
    np.save(tmp_path / "b.npy", shapes(NUMBER, 7)[0])
    with pytest.raises(UserError, match=r"b_labels\.npy: there is no such file"):
        sources.load(f"volumes:{tmp_path / 'b.npy'}")
    points = write("points", tmp_path / "p.npz")
    with pytest.raises(UserError, match="--preset=dwsnets enlarges images, and points are none"):
        build(points, tmp_path / "zoo", "--preset=dwsnets")
    assert not (tmp_path / "zoo").exists()


def test_values_at_the_points_of_a_grid_are_fitted_as_the_grid_is():
    spec = fields.spec_of("siren", (8,), 1, None, dims=3)
    grid = shapes(6, 4)[0][..., None].astype(np.float32)
    points = np.broadcast_to(spec.pixel_coordinates(4, 4, 4), (6, 64, 3))
    recipe, order = fit.Recipe(steps=9, stop_psnr=30.0), np.arange(6)
    on_grid, psnr = fit.Fitter(spec, recipe, 0, (4, 4, 4, 1), blocks=1)(grid, order)
    values = grid.reshape(6, 64, 1)
    at_points, again = fit.Fitter(spec, recipe, 0, (64, 1), blocks=1)(values, order, 0, points)
    np.testing.assert_allclose(at_points, on_grid, atol=1e-4)
    np.testing.assert_allclose(again, psnr, atol=1e-2)


@pytest.mark.parametrize(("number", "pixels", "parts"), [(10, 4, 3), (12, 4, 3), (5, 5, 1)])
def test_the_parts_of_the_pixels_are_all_of_them(number, pixels, parts):
    rows = jnp.arange(number, dtype=jnp.float32)[:, None]
    of_step = fit._parts(jax.random.key(0), pixels, rows, -rows)
    seen = []
    for t in range(parts):
        some, others = of_step(jnp.int32(t))
        assert some.shape == (pixels, 1)
        np.testing.assert_array_equal(others, -some)
        seen += some[:, 0].tolist()
    assert set(seen) == set(range(number))
    np.testing.assert_array_equal(of_step(jnp.int32(parts))[0], of_step(jnp.int32(0))[0])


def test_steps_on_some_voxels_get_further_for_the_same_work():
    spec = fields.spec_of("siren", (8,), 1, None, dims=3)
    grid = shapes(8, 8)[0][..., None].astype(np.float32)
    recipes = fit.Recipe(steps=25), fit.Recipe(steps=200, pixels=64)
    assert recipes[0].to_json().keys() == recipes[1].to_json().keys() - {"pixels"}
    whole, parts = (
        fit.Fitter(spec, recipe, 0, (8, 8, 8, 1), blocks=1)(grid, np.arange(8))[1].mean()
        for recipe in recipes
    )
    assert parts > whole + 1


SMALL_FLAGS = ["--config.num_probes=6", "--config.num_epochs=2", "--config.batch_size=8",
               "--config.head_width=8", "--config.head_depth=2"]  # fmt: skip
STARTS = {"rff": {"projection_std": 2.0}}  # what no file says


def vectors(weights):
    leaves = jax.tree.leaves(weights)
    return np.concatenate([np.asarray(leaf).reshape(NUMBER, -1) for leaf in leaves], axis=1)


EACH = [("siren", "points"), *zip(build_inr.FIELDS, [*UNDERSTOOD] * 2, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(("field", "kind"), EACH)
def test_fields_of_every_kind_and_dimension(kind, field, tmp_path, capsys):
    """Fitted, trained on, predicted for, exported, drawn."""
    source, zoo_dir = write(kind, tmp_path / "a.npz"), tmp_path / "zoo"
    pytest.importorskip("torch")
    build(source, zoo_dir, f"--field={field}", "--hidden=16,12", "--export=torch")
    flags = re.search(r"read it with (.*)", capsys.readouterr().out)[1]
    zoo = built_zoos.load(zoo_dir, "inr")
    columns, _ = read(build_folder.opened(zoo_dir))
    images = sources.load(source)
    dims, shape = UNDERSTOOD[kind][1], UNDERSTOOD[kind][0][:-1]
    assert zoo.spec.in_dim == dims and zoo.image_shape == (None if kind == "points" else shape)
    at = zoo.spec.pixel_coordinates(*((7, 7, 7) if kind == "points" else shape))
    drawn = zoo.spec.respond(jax.tree.map(jnp.asarray, zoo.weights), jnp.asarray(at))
    values = np.concatenate([sources.scaled(each.images) for each in (images.train, images.test)])
    wanted = values.reshape(NUMBER, -1, 1)[np.asarray(columns["image"])]
    psnr = -10 * np.log10(np.mean((np.asarray(drawn) - wanted) ** 2, axis=(1, 2)))
    np.testing.assert_allclose(psnr, columns["psnr"], rtol=1e-3)
    assert psnr.mean() > np.mean(-10 * np.log10(wanted.var(axis=(1, 2)))) + 1.5
    # Its export is the same zoo, read by the flags that were told; files get predictions.
    flags = ["x", *shlex.split(flags), f"--config.data_dir={tmp_path / 'data'}"]
    back = from_config(settings.parse(flags, "").config)
    assert dataclasses.replace(back.spec, **STARTS.get(field, {})) == zoo.spec
    ours, theirs = (vectors(each.weights) for each in (back, zoo))
    assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs))
    train([*flags, *SMALL_FLAGS, f"--workdir={tmp_path / 'run'}"])
    assert (tmp_path / "run" / "report.html").exists()
    export(["x", str(tmp_path / "run"), str(tmp_path / "model")])
    files = sorted((zoo_dir / "torch").rglob("*.pth"))
    run, model = (probegen_jax.load(tmp_path / of) for of in ("run", "model"))
    found = run.predict(files)
    assert found.faults == [None] * NUMBER and np.isfinite(found.values).all()
    np.testing.assert_array_equal(model.predict(files).values, found.values)


@pytest.mark.slow
def test_a_zoo_of_volumes_from_the_command_line(tmp_path):
    build(write("volumes", tmp_path / "a.npz"), tmp_path / "zoo", "--field=rff", "--stop_psnr=12")
    columns, _ = read(build_folder.opened(tmp_path / "zoo"))
    assert 12 < np.asarray(columns["psnr"]).mean() < 16
    config = ["--config=configs/mnist.py:probegen,8", f"--config.zoo_dir={tmp_path / 'zoo'}"]
    train(["x", *config, *SMALL_FLAGS, f"--workdir={tmp_path / 'run'}"])
    export(["x", str(tmp_path / "run"), str(tmp_path / "model")])
    for of in ("run", "model"):
        predict(["x", str(tmp_path / of), str(tmp_path / "zoo"), f"--out={tmp_path / of}.csv"])
    assert (tmp_path / "run.csv").read_text() == (tmp_path / "model.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("which", ["digits", "shapes"])
def test_the_classes_of_what_fields_draw_are_told(which, tmp_path):
    """Chance is 0.1 and 0.33; docs/build.md says what is reached."""
    source, flags, epochs = "digits", ["--field=rff"], 30
    if which == "shapes":
        values, labels = shapes(300, 16)
        np.savez(tmp_path / "a.npz", volumes=values, labels=labels)
        source, epochs = f"volumes:{tmp_path / 'a.npz'}", 60
        flags = ["--field=gelu", "--steps=300", "--pixels=512"]
    build(source, tmp_path / "zoo", *flags)
    zoo = built_zoos.load(tmp_path / "zoo", "inr")
    settings = {"num_epochs": epochs, "learning_rate": 1e-3, "num_seeds": 3, "report": False}
    trained = probegen_jax.train(zoo, num_probes=64, workdir=tmp_path / "run", **settings)
    assert trained.result["mean"] > {"digits": 0.8, "shapes": 0.7}[which]
