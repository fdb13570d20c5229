"""Dead leaves: ours, and the published ones from a zip, a folder or an address."""

import dataclasses
import functools
import http.server
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from probegen_jax.errors import UserError
from probegen_jax.method import dead_leaves, dead_leaves_files
from probegen_jax.method.generators.images import DeadLeaves
from probegen_jax.networks.cnn.published import CIFAR10, signed, small_cnn_zoo
from probegen_jax.networks.pixels import Pixels

COLOUR_MEAN = np.array([0.49139968, 0.48215841, 0.44653091])
COLOUR_STD = np.array([0.24703223, 0.24348513, 0.26158784])


def test_a_seed_decides_every_byte():
    images = dead_leaves.generate(4, 8, 8, 3, seed=5)
    assert images.shape == (4, 8, 8, 3)
    assert images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1
    # An image depends on (seed, its index) alone.
    assert dead_leaves.generate(2, 8, 8, 3, seed=5).tobytes() == images[:2].tobytes()
    assert not np.array_equal(dead_leaves.generate(4, 8, 8, 3, seed=6), images)
    assert not np.array_equal(images[0], images[1])
    assert images.std() > 0.1


def test_radii_follow_the_inverse_cube_law():
    """Density ∝ 1/r³ on [min, max]: P(r > t) = (t⁻² − max⁻²) / (min⁻² − max⁻²)."""
    radii = dead_leaves._radii(np.random.default_rng(0), 20_000)
    assert radii.min() >= 0.03
    assert radii.max() <= 1
    for t in (0.05, 0.1, 0.3):
        expected = (t**-2 - 1) / (0.03**-2 - 1)
        tolerance = 4 * np.sqrt(expected / len(radii))
        assert np.mean(radii > t) == pytest.approx(expected, abs=tolerance)


def test_leaves_are_opaque_and_cover_everything():
    leaf_of_pixel, laid = dead_leaves._cover(np.random.default_rng(0), 32, 32)
    assert leaf_of_pixel.shape == (32, 32)
    assert 1 < len(np.unique(leaf_of_pixel)) < laid
    # Flat leaves have at most one colour each.
    flat = np.zeros((1, 32, 32), np.float32)
    painted = dead_leaves._paint(np.random.default_rng(0), leaf_of_pixel, laid, flat, 3)
    for leaf in np.unique(leaf_of_pixel):
        assert len(np.unique(painted[leaf_of_pixel == leaf], axis=0)) == 1


def test_leaves_of_all_sizes():
    y, x = np.indices((64, 64), np.float32).reshape(2, -1)
    rng = np.random.default_rng(1)
    areas = np.concatenate([dead_leaves._leaves(rng, x, y, 64, 64).sum(axis=1) for _ in range(20)])
    assert areas.max() > 50 * np.median(areas)
    assert 0 < np.median(areas) < 50


def test_normalise_is_what_the_zoos_read():
    images = np.random.default_rng(0).uniform(size=(2, 4, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(
        CIFAR10.normalise(images),
        (images - COLOUR_MEAN) / COLOUR_STD,
        rtol=1e-4,
        atol=1e-6,
    )
    gray = images[..., :1]
    np.testing.assert_allclose(signed(1).normalise(gray), gray * 2 - 1, atol=1e-6)


def test_images_are_normalised_as_the_networks_say_whatever_their_channels(tmp_path):
    settings = {"dead_leaves": "generated", "num_probes": 2, "seed": 0, "data_dir": str(tmp_path)}
    spec = small_cnn_zoo("relu", in_channels=3)
    other = dataclasses.replace(spec, pixels=Pixels((0.1, 0.2, 0.3), (1.0, 2.0, 4.0)))
    plain = dead_leaves.generate(4, 32, 32, 3, seed=0)
    given = DeadLeaves.needed_images(settings, other)
    np.testing.assert_allclose(given, (plain - [0.1, 0.2, 0.3]) / [1, 2, 4], atol=1e-6)
    np.testing.assert_allclose(DeadLeaves.needed_images(settings, spec), 2 * plain - 1, atol=1e-6)
    with pytest.raises(UserError, match="nothing says how these were normalised; give mean and"):
        DeadLeaves.needed_images(settings, dataclasses.replace(spec, pixels=None))


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((np.nan,), (1.0,)), ((0.0,), (-1.0,))],
)
def test_statistics_that_cannot_be_are_told(mean, std):
    with pytest.raises(UserError, match=r"images' mean is .*; give both for every channel"):
        Pixels(mean, std)


def test_statistics_of_other_channels_are_told():
    with pytest.raises(UserError, match="those of 3 channels, but the networks read images of 1"):
        CIFAR10.normalise(np.zeros((1, 2, 2, 1), np.float32))


@pytest.fixture(scope="module")
def originals():
    return np.random.default_rng(0).integers(0, 256, (6, 128, 128, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, originals):
    root = tmp_path_factory.mktemp("leaves")
    for index, image in enumerate(originals):
        path = root / "train" / f"{index // 3:010d}" / f"{index:010d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (root / "train" / "readme.txt").write_text("not an image")
    return root


@pytest.fixture(scope="module")
def archive(tmp_path_factory, folder):
    path = tmp_path_factory.mktemp("zip") / "dead_leaves-textures.zip"
    with zipfile.ZipFile(path, "w") as file:
        for image in sorted(folder.rglob("*.*")):
            file.write(image, image.relative_to(folder))
        file.writestr("__MACOSX/train/._0.png", b"junk")
    return path


def test_zip_and_folder_give_the_same_images(folder, archive):
    from_folder = dead_leaves_files.read(folder, 4, (32, 32, 3), 0, CIFAR10)
    np.testing.assert_array_equal(
        from_folder, dead_leaves_files.read(archive, 4, (32, 32, 3), 0, CIFAR10)
    )
    np.testing.assert_array_equal(
        from_folder, dead_leaves_files.read(folder / "train", 4, (32, 32, 3), 0, CIFAR10)
    )
    assert not np.array_equal(
        from_folder, dead_leaves_files.read(folder, 4, (32, 32, 3), 1, CIFAR10)
    )


def chosen(seed: int, number: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(6, number, replace=False)


@pytest.mark.parametrize("fidelity", ["faithful", "official"])
def test_colour_is_resized_and_normalised_either_way(folder, originals, fidelity):
    images = dead_leaves_files.read(folder, 6, (32, 32, 3), 3, CIFAR10, fidelity)
    assert images.dtype == np.float32
    for ours, index in zip(images, chosen(3, 6), strict=True):
        resized = Image.fromarray(originals[index]).resize((32, 32), Image.Resampling.BILINEAR)
        expected = (np.asarray(resized) / 255 - COLOUR_MEAN) / COLOUR_STD
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_grayscale_faithful_is_resized_mean_in_minus_one_to_one(folder, originals):
    images = dead_leaves_files.read(folder, 2, (32, 32, 1), 0, signed(1), "faithful")
    assert images.shape == (2, 32, 32, 1)
    resized = Image.fromarray(originals[chosen(0, 2)[0]]).resize(
        (32, 32), Image.Resampling.BILINEAR
    )
    expected = np.asarray(resized).mean(axis=-1) / 127.5 - 1
    np.testing.assert_allclose(images[0, ..., 0], expected, atol=1e-5)


def test_grayscale_official_is_neither_resized_nor_normalised(folder, originals):
    images = dead_leaves_files.read(folder, 2, (32, 32, 1), 0, signed(1), "official")
    assert images.shape == (2, 128, 128, 1)
    luma = originals[chosen(0, 2)[0]] @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(images[0, ..., 0], luma, atol=0.6 / 255)


def test_bank_of_each_source(folder, tmp_path):
    generated = dead_leaves.probe_bank(
        "generated", 3, (8, 8, 1), 0, pixels=signed(1), folder=tmp_path
    )
    np.testing.assert_array_equal(generated, dead_leaves.generate(3, 8, 8, 1, 0) * 2 - 1)
    named = dead_leaves.probe_bank(str(folder), 3, (8, 8, 1), 0, pixels=signed(1), folder=tmp_path)
    np.testing.assert_array_equal(named, dead_leaves_files.read(folder, 3, (8, 8, 1), 0, signed(1)))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(archive):
    (archive.parent / "page.zip").write_text("<html>sorry</html>")
    handler = functools.partial(Quiet, directory=archive.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_fetch_once(server, archive, tmp_path):
    path = dead_leaves_files.fetch(tmp_path / "new", f"{server}/{archive.name}")
    assert path.read_bytes() == archive.read_bytes()
    assert dead_leaves_files.fetch(tmp_path / "new", "http://127.0.0.1:9/none") == path


@pytest.mark.parametrize(("page", "message"), [("page.zip", "not a zip"), ("no.zip", "not found")])
def test_a_failed_fetch_leaves_nothing(server, tmp_path, page, message):
    with pytest.raises(UserError, match=message):
        dead_leaves_files.fetch(tmp_path, f"{server}/{page}")
    assert not list(tmp_path.iterdir())


def test_bad_input_is_named(folder, archive, tmp_path):
    read = functools.partial(
        dead_leaves_files.read, image_shape=(32, 32, 3), seed=0, pixels=CIFAR10
    )
    with pytest.raises(UserError, match="no dead leaves at"):
        read(tmp_path / "nowhere", 1)
    with pytest.raises(UserError, match="no images under"):
        read(tmp_path, 1)
    with pytest.raises(UserError, match="holds 6 images, but 7"):
        read(archive, 7)
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(UserError, match="neither a folder nor a zip"):
        read(tmp_path / "x.zip", 1)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as file:
        file.writestr("val/0.png", b"")
    with pytest.raises(UserError, match="no images under train/"):
        read(tmp_path / "empty.zip", 1)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"broken\.png is not a readable image"):
        read(tmp_path, 1)
    with pytest.raises(UserError, match="2 channels"):
        dead_leaves_files.read(folder, 1, (32, 32, 2), 0, signed(2))
