"""Views of images: what they show, and zoos that have networks of them."""

import numpy as np
import pytest
from discs import build, colours, columns_of, write_images

from probegen_jax.errors import UserError
from probegen_jax.factory.images import sources
from probegen_jax.factory.inr.views import ROTATION, Views
from probegen_jax.zoo.prepared import built_zoos

PIXELS = np.random.default_rng(0).uniform(size=(3, 9, 7, 2)).astype(np.float32)


def drawn(moves, numbers, images=PIXELS, seed=0):
    found = Views(4, moves).drawn(images, np.array(numbers), np.arange(len(images)), seed)
    assert found.dtype == np.float32
    return found


def test_every_other_view_is_mirrored_from_left_to_right():
    found = drawn(("flip",), [0, 1, 2])
    expected = np.stack([PIXELS[0, :, ::-1], PIXELS[1], PIXELS[2, :, ::-1]])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_image_is_shifted_by_whole_pixels_into_its_mirror_image():
    images = np.repeat(PIXELS[:1], 80, axis=0)
    found, seen = drawn(("shift",), [0] * 80, images), set()
    wide = np.pad(PIXELS[0], ((1, 1), (1, 1), (0, 0)), mode="reflect")
    for view in found:
        (shift,) = [
            (y, x)
            for y in range(3)
            for x in range(3)
            if np.allclose(view, wide[y : y + 9, x : x + 7], atol=1e-5)
        ]
        seen.add(shift)
    assert len(seen) == 9


def test_an_image_is_turned_around_its_middle():
    y, x = np.mgrid[:31, :31] - 15.0
    images = np.stack([np.exp(-(x**2 + y**2) / 60), np.exp(-((x - 8) ** 2 + y**2) / 9)])
    images = np.repeat(images[..., None].astype(np.float32), 20, axis=0)
    found = drawn(("rotate",), [0] * 40, images)
    np.testing.assert_allclose(found[:20, 8:23, 8:23], images[:20, 8:23, 8:23], atol=2e-3)
    weights = found[20:, ..., 0] / found[20:, ..., 0].sum(axis=(1, 2), keepdims=True)
    middles = (weights * y).sum(axis=(1, 2)), (weights * x).sum(axis=(1, 2))
    np.testing.assert_allclose(np.hypot(*middles), 8, atol=0.05)
    angles = np.rad2deg(np.arctan2(*middles))
    assert 10 < np.abs(angles).max() < ROTATION + 0.5 and angles.min() < 0 < angles.max()


def test_views_follow_from_seed_image_and_number_and_images_stay():
    moves = ("flip", "shift", "rotate")
    found = drawn(moves, [-1, 0, 1])
    np.testing.assert_array_equal(found[0], PIXELS[0])
    again = Views(9, moves).drawn(PIXELS[1:], np.array([0, 1]), np.array([1, 2]), 0)
    np.testing.assert_array_equal(found[1:], again)
    assert (np.abs(found - drawn(moves, [-1, 0, 1], seed=1)).max(axis=(1, 2, 3)) > 0.1)[1:].all()
    for view, image in zip(found, PIXELS, strict=True):
        assert image.min() <= view.min() and view.max() <= image.max()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    source = colours(folder / "waves.npz")
    build(source, folder / "zoo", "--augment=3", "--moves=flip", "--layout=nfn", "--steps=60")
    return source, folder / "zoo"


def test_networks_of_views_draw_them_in_the_split_of_their_image(zoo, tmp_path):
    source, out = zoo
    loaded, (columns, rows) = built_zoos.load(out, "inr"), columns_of(out)
    assert len(loaded) == 4 * 21 and "of 21 images, or their views" in loaded.describe()
    np.testing.assert_array_equal(loaded.images_N, columns["image"])
    for of in rows.values():
        _, counts = np.unique(columns["image"][of], return_counts=True)
        assert (counts == 4).all()
    images = sources.load(str(source))
    pixels = sources.scaled(np.concatenate([images.train.images, images.test.images]))
    pixels = pixels[columns["image"]]
    pixels = np.where((columns["copy"] % 2 == 1)[:, None, None, None], pixels[:, :, ::-1], pixels)
    drawn = loaded.spec.render(loaded.weights, 8, 6)
    psnr = -10 * np.log10(np.mean((drawn - pixels) ** 2, axis=(1, 2, 3)))
    assert psnr.min() > 20
    # Networks of the images themselves are those of a zoo without views.
    build(source, tmp_path / "zoo", "--layout=nfn", "--steps=60")
    plain, _ = columns_of(tmp_path / "zoo")
    first = columns["copy"] == 0
    np.testing.assert_array_equal(columns["weights"][first], plain["weights"])
    assert built_zoos.load(tmp_path / "zoo", "inr").images_N is None


def test_a_folder_of_other_views_is_refused(zoo):
    source, out = zoo
    with pytest.raises(UserError, match=r"another zoo: .*views\.moves"):
        build(source, out, "--augment=3", "--moves=shift,flip", "--layout=nfn", "--steps=60")
    with pytest.raises(UserError, match=r"another zoo: .*views\.number \(3 there, absent here\)"):
        build(source, out, "--copies=1", "--layout=nfn", "--steps=60")


BAD = {
    "--moves=flip,zoom": "'flip,zoom' is not some of flip,shift,rotate",
    "--moves=": "'' is not some of flip,shift,rotate",
    "--augment=-1": "'-1' is not a whole number from 0",
}


@pytest.mark.parametrize("flag", BAD)
def test_bad_flags_are_told(flag, tmp_path):
    source = write_images(tmp_path / "discs.npz")
    with pytest.raises(UserError, match=BAD[flag]):
        build(source, tmp_path / "zoo", "--augment=1", flag)


def test_only_images_have_views(tmp_path):
    values = np.random.default_rng(0).uniform(size=(9, 16)).astype(np.float32)
    np.savez(tmp_path / "waves.npz", signals=values, labels=np.arange(9) % 2)
    with pytest.raises(UserError, match="--augment is for images, not for signals:"):
        build(f"signals:{tmp_path / 'waves.npz'}", tmp_path / "zoo", "--augment=1")
