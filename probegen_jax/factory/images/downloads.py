"""Labelled images from public addresses."""

import pathlib
import tarfile

import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.factory.images.files import Found, from_idx, part
from probegen_jax.files import UNREADABLE

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
    """One of `PUBLIC`, downloaded into `data_dir` unless it is there."""
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
    except UNREADABLE as error:
        raise UserError(
            f"{archive}: is not the binary version of CIFAR-10 ({error}); delete it and run again"
        ) from error
    return Found(*parts)
