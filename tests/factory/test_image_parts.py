"""How images in folders and arrays are understood: which part, which axis, and what is said."""

import numpy as np
import pytest
from PIL import Image

from probegen_jax import build_zoo
from probegen_jax.errors import UserError
from probegen_jax.factory.images import sources
from probegen_jax.factory.inr import fit_inrs

RNG = np.random.default_rng(0)
LABELS = np.arange(24) % 3


def write(folder, number=6, names=("cat", "dog", "owl")):
    for row in range(number):
        path = folder / names[row % len(names)] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (5, 6), dtype=np.uint8)).save(path)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("training", "testing"),
        ("Train", "Test"),
        ("TRAINING", "TESTING"),
        ("training_set", "test_set"),
        ("trainset", "tst"),
        ("train-images", "test_images"),
        ("train2017", "Test 2017"),
    ],
)
def test_parts_by_any_usual_name(train, test, tmp_path):
    write(tmp_path / train, 12)
    write(tmp_path / test, 6)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "all.txt").write_text("no images here")
    found = sources.load(str(tmp_path))
    assert (len(found.train), len(found.test), found.num_classes) == (12, 6, 3)
    assert not found.test_drawn and not found.num_val


@pytest.mark.parametrize("val", ["val", "Valid", "validation", "dev"])
def test_validation_images_are_for_validation(val, tmp_path):
    for name, number in (("train", 12), (val, 9), ("test", 6)):
        write(tmp_path / name, number)
    images = sources.load(str(tmp_path))
    assert (len(images.train), images.num_val, len(images.test)) == (21, 9, 6)
    networks = fit_inrs.choose(images, None, 1, 0)
    assert networks.image[networks.splits["val"]].tolist() == list(range(12, 21))
    assert len(networks.splits["train"]) == 12
    assert "12 to train on, 9 for validation, 6 to test on, 5×6 pixels" in images.summary()
    few = fit_inrs.choose(images, 18, 2, 0)
    assert set(few.image[few.splits["val"]].tolist()) <= set(range(12, 21))
    assert not set(few.image[few.splits["train"]].tolist()) & set(range(12, 21))


def test_validation_images_are_for_test_where_there_are_no_others(tmp_path):
    write(tmp_path / "train", 12)
    write(tmp_path / "val", 6)
    images = sources.load(str(tmp_path))
    assert (len(images.train), images.num_val, len(images.test)) == (12, 0, 6)
    assert not images.test_drawn


def test_a_class_may_be_called_as_a_part_is(tmp_path):
    write(tmp_path, 9, names=("bus", "train", "tram"))  # as in CIFAR-100
    images = sources.load(str(tmp_path))
    assert images.class_names == ("bus", "train", "tram")
    assert images.test_drawn and "(drawn by seed)" in images.summary()
    write(tmp_path / "train", 6)
    message = r"holds 'train' with folders by class, and 'bus' with images besides"
    with pytest.raises(UserError, match=message):
        sources.load(str(tmp_path))


def test_parts_that_cannot_be_told_are_refused(tmp_path):
    write(tmp_path / "two" / "train", 6)
    write(tmp_path / "two" / "Training", 6)
    with pytest.raises(UserError, match="'Training' and 'train' are both for train; keep one"):
        sources.load(str(tmp_path / "two"))
    write(tmp_path / "none" / "test", 6)
    with pytest.raises(UserError, match="holds test and nothing to train on"):
        sources.load(str(tmp_path / "none"))
    write(tmp_path / "flat", 6, names=("train", "test"))
    with pytest.raises(UserError, match="test and train have no subfolders by class"):
        sources.load(str(tmp_path / "flat"))


@pytest.mark.parametrize(
    ("shape", "understood"),
    [
        ((3, 12, 12), (12, 12, 3)),
        ((1, 28, 20), (28, 20, 1)),
        ((4, 8, 9), (8, 9, 4)),
        ((12, 12, 3), (12, 12, 3)),
        ((6, 5, 1), (6, 5, 1)),
        ((12, 64, 60), (64, 60, 12)),  # of many channels, fewer than pixels
        ((64, 60, 12), (64, 60, 12)),
        ((4, 4, 1), (4, 4, 1)),
        ((3, 3, 3), None),
        ((1, 9, 1), None),
        ((3, 9, 3), None),
        ((16, 16, 16), None),
        ((8, 16, 8), None),
    ],
)
def test_which_axis_the_channels_are(shape, understood, tmp_path, capsys):
    pixels = RNG.integers(0, 256, (24, *shape), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=pixels, labels=LABELS)
    if understood is None:
        with pytest.raises(UserError, match=r"whether channels come first or last cannot be told"):
            sources.load(str(tmp_path / "x.npz"))
        return
    images = sources.load(str(tmp_path / "x.npz"))
    assert images.image_shape == understood
    first = shape != understood
    assert ("channels first" in capsys.readouterr().out) == first
    ours = np.concatenate([images.train.images, images.test.images])
    theirs = pixels.transpose(0, 2, 3, 1) if first else pixels
    assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs))


@pytest.mark.parametrize("names", ["x_{} y_{}", "X_{} Y_{}", "{}_images {}_labels"])
def test_parts_in_an_npz(names, tmp_path):
    images, labels = names.split()
    arrays = {}
    for part in ("train", "val", "test"):
        arrays[images.format(part)] = RNG.integers(0, 256, (24, 7, 7), dtype=np.uint8)
        arrays[labels.format(part)] = LABELS[:, None]
    np.savez(tmp_path / "x.npz", **arrays)
    found = sources.load(str(tmp_path / "x.npz"))
    assert (len(found.train), found.num_val, len(found.test)) == (48, 24, 24)


def test_a_build_says_what_it_has_understood(tmp_path, capsys):
    for part in ("Training", "Testing"):
        write(tmp_path / "pets" / part, 6)
    out = tmp_path / "zoo"
    build_zoo.main(
        ["", "inr", f"--images={tmp_path / 'pets'}", "--steps=2", "--hidden=4", f"--out={out}"]
    )
    assert (
        "images of pets: 6 to train on, 6 to test on, 5×6 pixels, 1 channel, 3 classes: cat, dog, "
        "owl"
    ) in capsys.readouterr().out


def test_classes_of_images_are_the_labels_that_occur(tmp_path):
    pixels = RNG.integers(0, 256, (24, 7, 7), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=pixels, labels=2019 + LABELS * 2)
    images = sources.load(str(tmp_path / "x.npz"))
    assert images.class_names == ("2019", "2021", "2023")
    assert {bytes(i): int(label) for part in (images.train, images.test)
            for i, label in zip(part.images, part.labels, strict=True)} == {
        bytes(i): int(label) for i, label in zip(pixels[..., None], LABELS, strict=True)
    }  # fmt: skip
