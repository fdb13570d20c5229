"""Sources of images: what they give, and what they say of files that are no good."""

import gzip
import hashlib
import io
import struct
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from probegen_jax.errors import UserError
from probegen_jax.factory.images import downloads, sources
from probegen_jax.zoo.files import download

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(30, dtype=np.int32) % 3


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, gzipped=False, test=True):
    folder.mkdir(exist_ok=True)
    wrap, ending = (gzip.compress, ".gz") if gzipped else (bytes, "")
    for name, rows in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        if name == "train" or test:
            for what, array in (
                ("images-idx3", PIXELS[rows, ..., 0]),
                ("labels-idx1", LABELS[rows]),
            ):
                content = wrap(idx(array.astype(np.uint8)))
                (folder / f"{name}-{what}-ubyte{ending}").write_bytes(content)
    return folder


def write_folder(folder, ending=".png", pixels=PIXELS):
    for row, (image, label) in enumerate(zip(pixels, LABELS, strict=True)):
        path = folder / f"class{label}" / f"{row:02}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


@pytest.mark.parametrize("gzipped", [False, True])
def test_idx_files(gzipped, tmp_path):
    found = sources.load(f"idx:{write_idx(tmp_path / 'little', gzipped)}")
    assert (found.name, found.num_classes, found.image_shape) == ("little", 3, (6, 5, 1))
    np.testing.assert_array_equal(found.train.images, PIXELS[:20, ..., :1])
    np.testing.assert_array_equal(found.test.labels, LABELS[20:])
    assert found.test.labels.dtype == np.int32
    scaled = sources.scaled(found.train.images[:2])
    np.testing.assert_allclose(scaled, PIXELS[:2, ..., :1] / 255, rtol=1e-6)


def test_a_source_without_test_images_is_split_by_seed(tmp_path):
    source = f"idx:{write_idx(tmp_path / 'little', test=False)}"
    found, again = sources.load(source), sources.load(source)
    assert (len(found.train), len(found.test)) == (17, 3)
    assert found.digest == again.digest
    rows = [bytes(image) for part in (found.train, found.test) for image in part.images]
    assert sorted(rows) == sorted(bytes(image) for image in PIXELS[:20, ..., :1])


BAD_IDX = {
    "is truncated within its header": lambda good: good[:10],
    "is not an idx file": lambda good: b"GIF89a" + good,
    "but it has only 500": lambda good: good[:516],
    "but it has more than 600": lambda good: good + b"x",
    "idx type 13, not unsigned bytes": lambda good: good[:2] + b"\x0d" + good[3:],
    # More than any machine holds: only what is there may be read.
    "announces 79,228,162,458,924,105,385,300,197,375": lambda good: good[:4] + b"\xff" * 12,
}


@pytest.mark.parametrize("message", BAD_IDX)
@pytest.mark.parametrize("gzipped", [False, True])
def test_bad_idx_files_are_named(message, gzipped, tmp_path):
    write_idx(tmp_path, gzipped)
    path = tmp_path / ("train-images-idx3-ubyte" + (".gz" if gzipped else ""))
    content = gzip.decompress(path.read_bytes()) if gzipped else path.read_bytes()
    broken = BAD_IDX[message](content)
    path.write_bytes(gzip.compress(broken) if gzipped else broken)
    with pytest.raises(UserError, match=message) as error:
        sources.load(f"idx:{tmp_path}")
    assert str(path) in str(error.value)


def test_truncated_gzip_and_missing_files_are_named(tmp_path):
    write_idx(tmp_path, gzipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz: cannot be read"):
        sources.load(f"idx:{tmp_path}")
    path.unlink()
    with pytest.raises(UserError, match=r"no train-images-idx3-ubyte here"):
        sources.load(f"idx:{tmp_path}")
    with pytest.raises(UserError, match="there is no such folder"):
        sources.load(f"idx:{tmp_path / 'none'}")


def test_npz(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=PIXELS[:20], y_train=LABELS[:20, None], x_test=PIXELS[20:],
             y_test=LABELS[20:, None])  # fmt: skip
    found = sources.load(str(path))
    assert (found.name, len(found.train), len(found.test)) == ("mine", 20, 10)
    floats = (PIXELS / 255).astype(np.float64)
    np.savez(path, images=floats, labels=LABELS)
    found = sources.load(str(path))
    assert found.train.images.dtype == np.float32
    assert len(found.train) + len(found.test) == 30


BAD_NPZ = {
    "pixels go from 0 to 254": {"images": PIXELS.clip(0, 254).astype(np.float32), "labels": LABELS},
    "pixels go from nan": {"images": np.full((30, 4, 4), np.nan), "labels": LABELS},
    "images are int64": {"images": PIXELS.astype(np.int64), "labels": LABELS},
    r"images have shape \(30, 18\)": {"images": PIXELS[..., 0].reshape(30, -1)[:, :18],
                                      "labels": LABELS},
    r"labels have shape \(29,\), but there are 30": {"images": PIXELS, "labels": LABELS[1:]},
    "labels are float64": {"images": PIXELS, "labels": LABELS / 2},
    "labels go from -1": {"images": PIXELS, "labels": LABELS - 1},
    "all images to train on are of one class": {"images": PIXELS, "labels": LABELS * 0},
    "holds pixels; it needs images and labels": {"pixels": PIXELS},
    "is not a readable .npz": {"images": np.array([{}], object), "labels": LABELS},
}  # fmt: skip


@pytest.mark.parametrize("message", BAD_NPZ)
def test_bad_npz_files_are_told(message, tmp_path):
    np.savez(tmp_path / "x.npz", **BAD_NPZ[message])
    with pytest.raises(UserError, match=message):
        sources.load(str(tmp_path / "x.npz"))


def test_a_missing_or_damaged_npz_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        sources.load(str(tmp_path / "x.npz"))
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UserError, match=r"is not a readable \.npz"):
        sources.load(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("scheme", ["", "folder:"])
def test_a_folder_by_class(scheme, tmp_path):
    write_folder(tmp_path / "pets")
    (tmp_path / "pets" / "class0" / "notes.txt").write_text("not an image")
    found = sources.load(f"{scheme}{tmp_path / 'pets'}")
    assert (found.name, found.class_names) == ("pets", ("class0", "class1", "class2"))
    drawn = {bytes(image): label for part in (found.train, found.test)
             for image, label in zip(part.images, part.labels, strict=True)}  # fmt: skip
    assert drawn == {
        bytes(image): label for image, label in zip(PIXELS, LABELS.tolist(), strict=True)
    }


def test_some_images_without_labels(tmp_path):
    """Of a folder without classes, an .npz without labels, a named source; as many as there are."""
    gray, flat, shape = PIXELS[..., 0], tmp_path / "flat", (6, 5, 1)
    write_folder(tmp_path / "classes", pixels=gray)
    flat.mkdir()
    for path in sorted((tmp_path / "classes").rglob("*.png")):
        path.rename(flat / path.name)
    np.savez(tmp_path / "x.npz", images=gray)
    known = {image.tobytes() for image in sources.scaled(gray[..., None])}
    for source in (str(flat), str(tmp_path / "x.npz")):
        found = sources.some(source, 3, shape, seed=0)
        assert {image.tobytes() for image in found[..., 0]} <= known and len(found) == 3
        assert len(sources.some(source, 1000, shape, seed=0)) == len(gray)
        assert not np.array_equal(found, sources.some(source, 3, shape, seed=1))
    digits = sources.some("digits", 4, (16, 16, 3), seed=0)
    assert digits.shape == (4, 16, 16, 3) and digits.dtype == np.float32
    np.testing.assert_array_equal(digits[..., 0], digits[..., 2])


def test_images_without_labels_that_are_no_good_are_told(tmp_path):
    with pytest.raises(UserError, match="there are no images here; give a folder that has some"):
        sources.some(str(tmp_path), 3, (8, 8, 1), seed=0)
    np.savez(tmp_path / "two.npz", images=np.zeros((3, 8, 8, 2), np.uint8))
    with pytest.raises(UserError, match="images have 2 channels, but the zoo's networks read 3"):
        sources.some(str(tmp_path / "two.npz"), 3, (8, 8, 3), seed=0)
    with pytest.raises(UserError, match="no images at 'nowhere'; give digits, mnist"):
        sources.some("nowhere", 3, (8, 8, 3), seed=0)


def test_a_folder_with_train_and_test(tmp_path):
    write_folder(tmp_path / "train", pixels=PIXELS[..., 0])
    write_folder(tmp_path / "test", pixels=255 - PIXELS[..., 0])
    found = sources.load(str(tmp_path))
    assert (len(found.train), len(found.test), found.image_shape) == (30, 30, (6, 5, 1))
    write_folder(tmp_path / "test" / "class9")
    with pytest.raises(UserError, match=r"has the class 'class9', which .*train has not"):
        sources.load(str(tmp_path))


def test_bad_images_in_a_folder_are_named(tmp_path):
    folder = write_folder(tmp_path / "pets")
    odd = folder / "class1" / "zz.png"
    Image.fromarray(PIXELS[0, :5]).save(odd)
    with pytest.raises(UserError, match=r"zz\.png: is 5×5, but .*00\.png is 6×5; .*--resize=6x5"):
        sources.load(str(folder))
    assert sources.load(str(folder), resize=(6, 5)).image_shape == (6, 5, 3)
    odd.write_bytes((folder / "class0" / "00.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"zz\.png: cannot be read as an image"):
        sources.load(str(folder))
    odd.write_text("not an image")
    with pytest.raises(UserError, match=r"zz\.png: .*no image format that is known"):
        sources.load(str(folder))
    Image.fromarray(PIXELS[0, ..., 0].astype(np.uint16) * 200).save(odd)
    with pytest.raises(UserError, match=r"zz\.png: has more than 8 bits a channel"):
        sources.load(str(folder))
    odd.unlink()
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty: there are no images in this class's folder"):
        sources.load(str(folder))
    with pytest.raises(UserError, match="there are no images by class here"):
        sources.load(str(folder / "empty"))


def test_no_such_source_is_told():
    with pytest.raises(UserError, match="no images at 'minst'; give digits, mnist, fashion_mnist"):
        sources.load("minst")


def test_grayscale_is_the_mean_and_resizing_goes_before_nothing(tmp_path):
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=LABELS)
    gray = sources.load(str(tmp_path / "x.npz"), grayscale=True)
    color = sources.load(str(tmp_path / "x.npz"))
    np.testing.assert_allclose(
        gray.train.images, color.train.images.mean(-1, keepdims=True), atol=0.5
    )
    assert gray.digest != color.digest
    np.savez(tmp_path / "x.npz", images=np.repeat(PIXELS, 8, 1) / np.float32(255), labels=LABELS)
    small = sources.load(str(tmp_path / "x.npz"), resize=(6, 5))
    assert small.image_shape == (6, 5, 3)
    np.testing.assert_allclose(
        small.train.images.mean((1, 2)), color.train.images.mean((1, 2)) / 255, atol=0.02
    )


class Pets(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
                }
            )
        )

    def _split_generators(self, manager):
        return {"train": self._generate_examples(0, 20), "test": self._generate_examples(20, 30)}

    def _generate_examples(self, start, stop):
        for row in range(start, stop):
            file = io.BytesIO()
            Image.fromarray(PIXELS[row]).save(file, "png")
            file.seek(0)
            yield row, {"image": file, "label": int(LABELS[row])}


def test_a_data_set_that_tfds_has_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(Pets, "pkg_dir_path", tmp_path)
    with pytest.raises(UserError, match=r"tfds:pets: is not prepared in .*array_record.*prepare"):
        sources.load("tfds:pets", data_dir=tmp_path)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder = Pets(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare(download_config=config)
    found = sources.load("tfds:pets", data_dir=tmp_path)
    assert (found.class_names, found.image_shape) == (("a", "b", "c"), (6, 5, 3))
    assert sorted(map(bytes, found.train.images)) == sorted(map(bytes, PIXELS[:20]))
    info = tmp_path / "pets" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(UserError, match="is prepared as tfrecord, which only TensorFlow reads"):
        sources.load("tfds:pets", data_dir=tmp_path)


def test_public_images_are_fetched_checked_and_kept(tmp_path, monkeypatch):
    write_idx(tmp_path / "server", gzipped=True)
    fetched = []

    def fetch(address, folder):
        fetched.append(address.url)
        folder.mkdir(parents=True, exist_ok=True)
        content = (tmp_path / "server" / address.filename).read_bytes()
        assert hashlib.sha256(content).hexdigest() != address.sha256  # not the real file
        (folder / address.filename).write_bytes(content)
        return folder / address.filename

    monkeypatch.setattr(download, "fetch", fetch)
    found = sources.load("fashion_mnist", data_dir=tmp_path)
    assert found.class_names == (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
        "Ankle boot",
    )  # fmt: skip
    np.testing.assert_array_equal(found.train.images, PIXELS[:20, ..., :1])
    assert [url.rsplit("/", 1)[1] for url in fetched] == [
        f"{name}-ubyte.gz" for name in downloads._IDX
    ]


def test_the_binary_version_of_cifar10(tmp_path, monkeypatch):
    pixels = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        names = [f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"]
        for label, (name, image) in enumerate(zip(names, pixels, strict=True)):
            content = bytes([label]) + image.transpose(2, 0, 1).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(download, "fetch", lambda address, folder: tmp_path / address.filename)
    found = sources.load("cifar10", data_dir=tmp_path)
    np.testing.assert_array_equal(found.train.images, pixels[:5])
    np.testing.assert_array_equal(found.test.images, pixels[5:])
    assert found.class_names[5] == "dog"
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="is not the binary version of CIFAR-10"):
        sources.load("cifar10", data_dir=tmp_path)


def test_mnist_as_shared(shared):
    found = sources.load(f"idx:{shared / 'data' / 'mnist'}")
    assert (len(found.train), len(found.test), found.image_shape) == (60000, 10000, (28, 28, 1))
    assert found.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
