"""Labelled images from public addresses, and from data sets that TFDS has prepared."""

import os
import pathlib
import tarfile
import zlib

import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.factory.images.files import Found, from_idx, part

_IDX = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
# Address and SHA-256 of each file, in the order of `_IDX`; the same as in TFDS's own lists.
_MNIST_LIKE = {
    "mnist": (
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    "fashion_mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
}
_CIFAR10 = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
_CLASSES = {
    "fashion_mnist": "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, "
    "Ankle boot",
    "cifar10": "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck",
}
PUBLIC = (*_MNIST_LIKE, "cifar10")


def public(name: str, data_dir: pathlib.Path) -> Found:
    """One of `PUBLIC`, downloaded into `data_dir` unless it is there.

    Raises:
      UserError: no connection, another checksum, no space.
    """
    folder = data_dir / "downloads" / name
    if name == "cifar10":
        found = _read_cifar10(_fetch(*_CIFAR10, folder))
    else:
        base, *checksums = _MNIST_LIKE[name]
        for file, sha256 in zip(_IDX, checksums, strict=True):
            _fetch(f"{base}{file}-ubyte.gz", sha256, folder)
        found = from_idx(folder)
    classes = tuple(_CLASSES[name].split(", ")) if name in _CLASSES else None
    return Found(found.train, found.test, classes)


def _fetch(url: str, sha256: str, folder: pathlib.Path) -> pathlib.Path:
    from probegen_jax.zoo.files.download import Address, fetch

    filename = url.rsplit("/", 1)[1]
    address = Address(url, filename, sha256, by_hand=str(folder), data_dir="--data_dir=DIR")
    return fetch(address, folder)


def _read_cifar10(archive: pathlib.Path) -> Found:
    """The binary version, read in place: a byte for the class, then red, green and blue."""
    batches = {"train": [f"data_batch_{n}.bin" for n in range(1, 6)], "test": ["test_batch.bin"]}
    try:
        with tarfile.open(archive) as tar:
            files = {pathlib.PurePath(member.name).name: member for member in tar.getmembers()}
            parts = []
            for names in batches.values():
                content = b"".join(tar.extractfile(files[name]).read() for name in names)
                rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
                images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                parts.append(part(images, rows[:, 0], archive))
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError, zlib.error) as error:
        raise UserError(
            f"{archive}: is not the binary version of CIFAR-10 ({error}); delete it and run again"
        ) from error
    return Found(*parts)


def from_tfds(name: str, data_dir: pathlib.Path | None) -> Found:
    """A data set that TFDS prepared as array_record, read without TensorFlow.

    Args:
      data_dir: where TFDS keeps data sets; `$TFDS_DATA_DIR` or `~/tensorflow_datasets` if None, or
        if it is not there.

    Raises:
      UserError: not prepared, or not of labelled images.
    """
    import tensorflow_datasets as tfds

    default = os.environ.get("TFDS_DATA_DIR") or pathlib.Path.home() / "tensorflow_datasets"
    roots = [root for root in (data_dir, pathlib.Path(default)) if root is not None]
    prepared = [path.parent for root in roots for path in (root / name).rglob("dataset_info.json")]
    if not prepared:
        raise _unprepared(name, f"is not prepared in {' or '.join(map(str, roots))}")
    builder = tfds.builder_from_directory(max(prepared, key=lambda path: path.name))
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        stored = builder.info.file_format.value if builder.info.file_format else "something"
        raise _unprepared(name, f"is prepared as {stored}, which only TensorFlow reads")
    features = builder.info.features
    keys = {}
    for kind in (tfds.features.Image, tfds.features.ClassLabel):
        of_kind = [key for key, feature in features.items() if isinstance(feature, kind)]
        if len(of_kind) != 1:
            raise UserError(
                f"tfds:{name}: has {len(of_kind)} features of type {kind.__name__}, not one; "
                "images with a class each are needed"
            )
        keys[kind] = of_kind[0]
    image, label = keys.values()
    parts = [
        _read_split(builder, split, image, label, f"tfds:{name}")
        for split in ("train", "test")
        if split in builder.info.splits
    ]
    if "train" not in builder.info.splits:
        raise UserError(f"tfds:{name}: has no split 'train' but {', '.join(builder.info.splits)}")
    return Found(parts[0], parts[1] if len(parts) == 2 else None, tuple(features[label].names))


def _read_split(builder, split: str, image: str, label: str, where: str):
    from tqdm import tqdm

    examples = builder.as_data_source(split)
    images, labels = [], []
    for row in tqdm(range(len(examples)), desc="reading images", unit="image", disable=None):
        example = examples[row]
        if images and example[image].shape != images[0].shape:
            raise UserError(
                f"{where}: image {row} of {split!r} has shape {example[image].shape}, the first "
                f"{images[0].shape}; only data sets of one size can be used"
            )
        images.append(example[image])
        labels.append(example[label])
    return part(np.stack(images), np.asarray(labels), where)


def _unprepared(name: str, what: str) -> UserError:
    return UserError(
        f'tfds:{name}: {what}; where TensorFlow is installed, prepare it with: python -c "import '
        f"tensorflow_datasets as tfds; tfds.builder('{name}', file_format='array_record')"
        '.download_and_prepare()"'
    )
