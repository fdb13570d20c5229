"""INR zoos from images: built, killed, built again, exported and read back."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from discs import IMAGES, build, columns_of, write_images
from PIL import Image

import probegen_jax
from probegen_jax import build_zoo
from probegen_jax.errors import UserError
from probegen_jax.factory.images import sources
from probegen_jax.factory.inr import build_inr, fields, fit, fit_inrs
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.runs.experiment import load_run
from probegen_jax.runs.exported import export
from probegen_jax.zoo import splits
from probegen_jax.zoo.prepared import build_folder as data_set
from probegen_jax.zoo.prepared import built_zoos
from probegen_jax.zoo.prepared.builders import Request
from probegen_jax.zoo.published import loading


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "discs.npz")


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("zoos") / "discs"
    pytest.importorskip("torch")
    build(source, out, "--steps=20", "--export=torch", "--layout=mnist")
    return out


def test_networks_draw_their_images_and_splits_follow_the_source(source, exported):
    found = sources.load(str(source))
    zoo = built_zoos.load(exported, "inr")
    columns, rows = columns_of(exported)
    assert {split: len(of) for split, of in rows.items()} == {"train": 33, "val": 3, "test": 6}
    assert sorted(columns["image"]) == list(range(IMAGES))
    assert columns["image"][rows["test"]].tolist() == list(range(36, 42))
    labels = np.concatenate([found.train.labels, found.test.labels])
    np.testing.assert_array_equal(zoo.targets_N, labels[columns["image"]])
    pixels = sources.scaled(np.concatenate([found.train.images, found.test.images]))
    drawn = jax.vmap(zoo.spec.apply, (0, None))(
        zoo.weights, jnp.asarray(zoo.spec.pixel_coordinates(6, 6))
    )
    errors = np.asarray(drawn).reshape(-1, 6, 6, 1) - pixels[columns["image"]]
    psnr = -10 * np.log10(np.mean(errors**2, axis=(1, 2, 3)))
    np.testing.assert_allclose(psnr, columns["psnr"], rtol=1e-3)
    assert psnr.mean() > 20
    assert zoo.image_shape == (6, 6)


def test_every_field_has_a_name():
    assert tuple(fields.FIELDS) == build_inr.FIELDS


@pytest.mark.parametrize("field", build_inr.FIELDS[1:])
def test_fields_of_every_kind_draw_their_images(field, source, tmp_path, capsys):
    build(source, tmp_path / "zoo", f"--field={field}", "--num=12", "--hidden=16,16")
    zoo = built_zoos.load(tmp_path / "zoo", "inr")
    assert zoo.spec == fields.spec_of(field, (16, 16), 1, None)
    columns, _ = columns_of(tmp_path / "zoo")
    pixels = sources.scaled(sources.load(str(source)).train.images)
    pixels = np.concatenate([pixels, sources.scaled(sources.load(str(source)).test.images)])
    drawn = zoo.spec.render(zoo.weights, 6, 6)
    psnr = -10 * np.log10(np.mean((drawn - pixels[columns["image"]]) ** 2, axis=(1, 2, 3)))
    assert psnr.mean() > 25 and (psnr > columns["psnr"] - 0.01).all()


@pytest.mark.slow
def test_a_zoo_of_fields_is_trained_on_and_its_model_travels(source, tmp_path):
    build(source, tmp_path / "zoo", "--field=rff", "--steps=30")
    zoo = built_zoos.load(tmp_path / "zoo", "inr")
    small = {"num_epochs": 2, "batch_size": 8, "head_width": 8, "head_depth": 2, "report": False}
    trained = probegen_jax.train(
        zoo, num_probes=6, workdir=tmp_path / "run", readout="hidden", **small
    )
    export(load_run(tmp_path / "run", zoo=zoo), tmp_path / "model")
    moved = probegen_jax.load(tmp_path / "model")
    expected = trained.predict(zoo).values_SxNxO
    np.testing.assert_array_equal(moved.predict(zoo).values_SxNxO, expected)


def test_what_is_for_sirens_only_is_told(source, tmp_path):
    with pytest.raises(UserError, match=r"--field is rff, but --preset=dwsnets is for SIRENs"):
        build(source, tmp_path / "zoo", "--field=rff", "--preset=dwsnets")
    assert not (tmp_path / "zoo").exists()


def test_an_export_gives_plain_torch_code_the_same_outputs(exported):
    import torch

    zoo = built_zoos.load(exported, "inr")
    listed = json.loads((exported / "torch" / "mnist_splits.json").read_text())
    coordinates = zoo.spec.pixel_coordinates(6, 6)
    for split, rows in zoo.splits.items():
        paths, labels = listed[split]["path"], listed[split]["label"]
        assert labels == [str(label) for label in zoo.targets_N[rows]]
        for path, label, row in zip(paths, labels, rows, strict=True):
            part = "testing" if split == "test" else "training"
            assert path.startswith(f"mnist-inrs/mnist_png_{part}_{label}_")
            state = torch.load(exported / "torch" / path)
            x = torch.from_numpy(coordinates)
            for layer in (0, 1):
                x = torch.sin(
                    30 * (x @ state[f"seq.{layer}.weight"].T + state[f"seq.{layer}.bias"])
                )
            x = x @ state["seq.2.weight"].T + state["seq.2.bias"] + 0.5
            network = jax.tree.map(lambda leaf, row=row: jnp.asarray(leaf[row]), zoo.weights)
            np.testing.assert_allclose(
                zoo.spec.apply(network, jnp.asarray(coordinates)), x, atol=2e-5
            )


@pytest.mark.parametrize("layout", ["mnist", "fmnist"])
def test_an_export_comes_back_as_the_published_zoo_bit_for_bit(layout, source, exported, tmp_path):
    if layout == "fmnist":
        # Files that are there stay; the layout is another one, so all are written beside.
        build(source, exported, "--steps=20", "--export=torch", "--layout=fmnist")
    request = Request(manual_dir=exported / "torch")
    zoo = built_zoos.load(exported, "inr")
    back = loading.load(f"{layout}_inr", tmp_path, split="official", request=request)
    for split, rows in zoo.splits.items():
        ours = jax.tree.map(lambda leaf, rows=rows: leaf[rows], zoo.weights)
        theirs = jax.tree.map(lambda leaf, s=split: leaf[back.splits[s]], back.weights)
        targets = zoo.targets_N[rows], back.targets_N[back.splits[split]]
        # The published builder shuffles; a network is known by its first weights.
        order = [np.lexsort(each[0]["kernel"][:, :, :2].reshape(len(rows), -1).T)
                 for each in (ours, theirs)]  # fmt: skip
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(a[order[0]], b[order[1]])
        np.testing.assert_array_equal(targets[0][order[0]], targets[1][order[1]])


def test_a_killed_export_goes_on(source, exported):
    folder = exported / "torch"
    victims = sorted(folder.glob("mnist-inrs/**/*.pth"))[:3]
    content = [path.read_bytes() for path in victims]
    victims[0].unlink()
    victims[1].rename(victims[1].with_name(".model_final.pth"))
    kept = victims[2].stat().st_mtime_ns
    build(source, exported, "--steps=20", "--export=torch", "--layout=mnist")
    assert [path.read_bytes() for path in victims] == content
    assert victims[2].stat().st_mtime_ns == kept


def test_a_finished_zoo_is_shown_and_another_is_refused(source, exported, capsys):
    def times():
        return {
            path: path.stat().st_mtime_ns for path in exported.rglob("*") if path.name != ".lock"
        }

    before = times()
    build(source, exported, "--steps=20")
    assert "is finished" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"another zoo: recipe\.steps \(20 there, 21 here\), seed"):
        build(source, exported, "--steps=21", "--seed=1")
    assert times() == before


def other_pixels(source):
    arrays = dict(np.load(source))
    arrays["x_train"] = arrays["x_train"][::-1]
    np.savez(source, **arrays)


def other_labels(source):
    arrays = dict(np.load(source))
    np.savez(source, **arrays | {"y_test": arrays["y_test"][::-1]})


@pytest.mark.parametrize("change", [other_pixels, other_labels])
def test_images_that_changed_between_two_sittings_are_refused(change, exported, tmp_path):
    source = write_images(tmp_path / "discs.npz")
    change(source)
    with pytest.raises(UserError, match=r"holds another zoo: images\.digest \("):
        build(source, exported, "--steps=20")


def test_classes_that_got_other_names_are_refused(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            pixels = np.full((4, 4), 20 * i + len(name), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    build(tmp_path / "photos", tmp_path / "zoo", "--steps=2", "--hidden=4")
    (tmp_path / "photos" / "dog").rename(tmp_path / "photos" / "wolf")
    with pytest.raises(UserError, match=r"images\.class_names \(\['cat', 'dog'\] there, \['c"):
        build(tmp_path / "photos", tmp_path / "zoo", "--steps=2", "--hidden=4")
    plan = json.loads((tmp_path / "zoo" / "plan.json").read_text())
    del plan["images"]["class_names"]  # as of an earlier version
    (tmp_path / "zoo" / "plan.json").write_text(json.dumps(plan))
    build(tmp_path / "photos", tmp_path / "zoo", "--steps=2", "--hidden=4")


def test_what_falls_short_is_fitted_again_from_other_starts(source, exported, tmp_path, capsys):
    before, _ = columns_of(exported)
    least = float(np.quantile(before["psnr"], 0.2))
    build(source, tmp_path / "zoo", "--steps=20", f"--min_psnr={least}")
    after, _ = columns_of(tmp_path / "zoo")
    short = before["psnr"] < least
    assert 0 < short.sum() < IMAGES / 2
    np.testing.assert_array_equal(after["starts"] > 1, short)
    np.testing.assert_array_equal(after["weights"][~short], before["weights"][~short])
    assert (after["psnr"][short] >= before["psnr"][short]).all()
    assert (after["psnr"][short] > before["psnr"][short]).any()
    assert after["starts"].max() <= fit_inrs.RETRIES + 1
    assert f"{short.sum()} networks were fitted again" in capsys.readouterr().out


def test_copies_of_an_image_stay_in_one_split_and_differ(source, exported, tmp_path):
    build(source, tmp_path / "zoo", "--steps=20", "--copies=3", "--num=21")
    columns, rows = columns_of(tmp_path / "zoo")
    of_split = {split: set(columns["image"][of].tolist()) for split, of in rows.items()}
    for a, b in itertools.combinations(of_split.values(), 2):
        assert not a & b
    assert sum(len(each) for each in of_split.values()) == 21 == len(columns["image"]) / 3
    assert len(np.unique(columns["weights"], axis=0)) == 63
    # The first copy is the network that a zoo without copies, or with more images, has.
    once, _ = columns_of(exported)
    first = columns["copy"] == 0
    place = [once["image"].tolist().index(image) for image in columns["image"][first]]
    np.testing.assert_array_equal(columns["weights"][first], once["weights"][place])


def test_proportions_of_the_published_zoos():
    pixels, labels = np.zeros((60_000, 1, 1, 1), np.uint8), np.arange(60_000, dtype=np.int32) % 10
    train = sources.Part(pixels, labels)
    test = sources.Part(pixels[:10_000], labels[:10_000])
    source = sources.ImageSet("mnist", train, test, 10, tuple("0123456789"), "")
    sizes = {k: len(v) for k, v in fit_inrs.choose(source, None, 1, 0).splits.items()}
    assert sizes == {"train": 55_000, "val": 5_000, "test": 10_000}
    sizes = {k: len(v) for k, v in fit_inrs.choose(source, 7_000, 2, 0).splits.items()}
    assert sizes == {"train": 11_000, "val": 1_000, "test": 2_000}
    source = dataclasses.replace(source, name="cifar10", train=train.take(np.arange(50_000)))
    chosen = fit_inrs.choose(source, None, 1, 0, splits.NFN_VAL_SHARE)
    sizes = {k: len(v) for k, v in chosen.splits.items()}
    assert sizes == {"train": 45_000, "val": 5_000, "test": 10_000}
    source = dataclasses.replace(source, name="mnist", train=train)
    with pytest.raises(UserError, match="--num is 70,001, but mnist has 70,000 images"):
        fit_inrs.choose(source, 70_001, 1, 0)


def test_weights_do_not_depend_on_how_many_devices_share_the_work():
    targets = np.random.default_rng(0).uniform(size=(21, 6, 6, 1)).astype(np.float32)
    options = {"blocks": 2, "block_size": 4}
    results = []
    for devices in (jax.devices()[:1], jax.devices()[:3]):
        fitter = fit.Fitter(
            SirenSpec(), fit.Recipe(steps=10), 0, (6, 6, 1), devices=devices, **options
        )
        results.append(fitter(targets, np.arange(21)))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_a_network_that_is_good_enough_is_left_as_it_is():
    targets = np.random.default_rng(0).uniform(size=(8, 6, 6, 1)).astype(np.float32)
    recipe = fit.Recipe(300, 1e-3, False, "siren", stop_psnr=15.0)
    _, psnr = fit.Fitter(SirenSpec(), recipe, 0, (6, 6, 1), blocks=1)(targets, np.arange(8))
    assert (psnr > 14.99).all() and (psnr < 16).all()


def test_the_published_recipe_shows_the_published_statistics(source, tmp_path, capsys):
    build(source, tmp_path / "zoo", "--preset=dwsnets", "--steps=3", "--num=10", "--layout=fmnist")
    shown = capsys.readouterr().out
    assert "published std" in shown and "0.0782" in shown
    recipe = json.loads((tmp_path / "zoo" / "plan.json").read_text())["recipe"]
    assert (recipe["upsample"], recipe["stop_psnr"], recipe["start"]) == (2, 40.0, "dwsnets")


BAD_FLAGS = {
    "--num=2": "'2' is not a whole number from 3",
    "--steps=0": "'0' is not a whole number from 1",
    "--learning_rate=nan": "'nan' is not a number above 0",
    "--hidden=32,x": "'32,x' is no list of widths",
    "--resize=28x": None,
    "--resize=0": "'0' is no size; give 28 or 28x32",
    "--preset=slow": "invalid choice: 'slow'",
    "--layers=3": "unrecognized arguments: --layers=3",
    "--learning_rate=1e38": "networks diverge at learning rate 1e+38",
}


@pytest.mark.parametrize("flag", BAD_FLAGS)
def test_bad_flags_are_told(flag, source, tmp_path):
    if BAD_FLAGS[flag] is None:
        build(source, tmp_path / "zoo", "--steps=1", flag)
        assert built_zoos.load(tmp_path / "zoo", "inr").image_shape == (28, 28)
        return
    with pytest.raises(UserError) as error:
        build(source, tmp_path / "zoo", "--steps=2", flag)
    assert BAD_FLAGS[flag] in str(error.value)
    assert not data_set.is_written(tmp_path / "zoo")


def test_help_shows_examples(capsys):
    for argv in (["x", "--help"], ["x", "inr", "--help"]):
        with pytest.raises(SystemExit) as stop:
            build_zoo.main(argv)
        assert stop.value.code == 0
        assert "python -m probegen_jax.build_zoo inr --images=digits" in capsys.readouterr().out
    with pytest.raises(UserError, match="command line: the following arguments are required"):
        build_zoo.main(["x", "inr", "--out=zoo"])
