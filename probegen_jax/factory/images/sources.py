"""Sources of labelled images for zoos: built in, public, prepared by TFDS, or the user's files.

Signals, volumes, and values at points are images of other dimensions here.
"""

import dataclasses
import hashlib
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from probegen_jax import user_cache
from probegen_jax.errors import UserError
from probegen_jax.factory.images import downloads, files, folders, grids
from probegen_jax.factory.images.files import Found, Part

SOURCES = (
    "digits, mnist, fashion_mnist, cifar10, tfds:NAME, idx:DIR, FILE.npz, or a folder with a "
    "subfolder of images for each class; for fields also signals:FILE, volumes:FILE or points:FILE"
)
# Of sources that keep no test images apart, the share that is drawn for test: as of MNIST's.
_TEST_SHARE, _SPLIT_SEED = 1 / 7, 0
_SHOWN = 20  # names of classes


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Labelled images in two parts.

    Attributes:
      digest: SHA-256 of all pixels and labels.
      num_val: how many of the images to train on, the last ones, the source keeps for validation.
      test_drawn: whether the test images are no part of the source's own, but drawn by seed.
    """

    name: str
    train: Part
    test: Part
    num_classes: int
    class_names: tuple[str, ...]
    digest: str
    num_val: int = 0
    test_drawn: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What tells these images from others, for a build's plan."""
        own = {"num_val": self.num_val} if self.num_val else {}
        names = {"class_names": list(self.class_names)}
        return {"name": self.name, "digest": self.digest, **names, **own}

    def summary(self) -> str:
        """What was understood of the source, in a line."""
        *grid, channels = self.image_shape
        size = "×".join(map(str, grid))
        cells = {1: "values", 2: "pixels", 3: "voxels"}[self.dims]
        kind = {1: "signals", 2: "images", 3: "volumes"}[self.dims]
        if self.train.points is not None:
            kind, cells = "fields", f"points of {self.dims} coordinates"
        val = f"{self.num_val:,} for validation, " if self.num_val else ""
        drawn = " (drawn by seed)" if self.test_drawn else ""
        names = ", ".join(self.class_names[:_SHOWN])
        more = f", … {self.class_names[-1]}" if self.num_classes > _SHOWN else ""
        return (
            f"{kind} of {self.name}: {len(self.train) - self.num_val:,} to train on, {val}"
            f"{len(self.test):,} to test on{drawn}, {size} {cells}, "
            f"{channels} channel{'s' * (channels > 1)}, {self.num_classes} classes: {names}{more}"
        )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels; of others the sides of the grid, or how many points."""
        return self.train.images.shape[1:]

    @property
    def dims(self) -> int:
        """Coordinates of a point."""
        points = self.train.points
        return len(self.image_shape) - 1 if points is None else points.shape[2]

    @property
    def signed(self) -> bool:
        """Whether values are from -1 to 1, not from 0."""
        return any(part.images.min() < 0 for part in (self.train, self.test))


def scaled(images: Num[np.ndarray, "N *grid C"]) -> Float[np.ndarray, "N *grid C"]:
    """The values of a `Part` as float32; of as many images as are needed at a time."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images


def load(
    source: str,
    *,
    grayscale: bool = False,
    resize: tuple[int, int] | None = None,
    data_dir: pathlib.Path | None = None,
) -> ImageSet:
    """The images of a source.

    Args:
      grayscale: replace channels by their mean, as the Small CNN Zoo does.
      resize: height and width to bring every image to, bilinear, with antialiasing.
      data_dir: where downloads are kept, and the first place to look for TFDS's data sets; the
        user's cache folder if None.
    """
    found, name = _find(source, resize, data_dir)
    train, test, num_val = found.train, found.test or found.val, 0
    if found.test and found.val:
        train, num_val = _joined(train, found.val, source), len(found.val)
    drawn = test is None
    parts = _drawn(train, source) if drawn else [train, test]
    shapes = ["×".join(map(str, (*part.images.shape[1:], *_coordinates(part)))) for part in parts]
    if shapes[0] != shapes[1]:
        raise UserError(f"{source}: images to train on are {shapes[0]}, to test on {shapes[1]}")
    names = found.class_names
    if names is None:  # classes are the labels that occur
        labels, rows = np.unique(np.concatenate([p.labels for p in parts]), return_inverse=True)
        names = tuple(map(str, labels))
        classes = np.split(rows.astype(np.int32), [len(parts[0])])
        parts = [Part(p.images, of, p.points) for p, of in zip(parts, classes, strict=True)]
    largest = max(int(part.labels.max()) for part in parts)
    if len(np.unique(parts[0].labels)) < 2:
        raise UserError(
            f"{source}: all images to train on are of one class; a zoo needs at least two"
        )
    if largest >= len(names):
        raise UserError(f"{source}: has label {largest}, but only {len(names)} classes")
    if grayscale:
        parts = [Part(_gray(part.images), part.labels, part.points) for part in parts]
    if resize is not None:
        if parts[0].images.ndim != 4:
            raise UserError(f"--resize is for images, not for {source}; leave it out")
        parts = [Part(_resized(part.images, resize), part.labels) for part in parts]
    return ImageSet(name, *parts, len(names), names, digest(parts), num_val, drawn)


def some(
    source: str,
    number: int,
    image_shape: tuple[int, int, int],
    seed: int,
    data_dir: pathlib.Path | None = None,
) -> Float[np.ndarray, "N H W C"]:
    """Images of a source without their labels, which it need not have, in [0, 1].

    They are chosen by seed from those to train on, `number` of them, or all if there are fewer.
    Channels become their mean where one is wanted, and a gray one is repeated.

    Args:
      source: as of `load`; a folder need not have subfolders, nor an `.npz` labels.

    Raises:
      UserError: the images cannot be had or read, or have other channels.
    """
    *size, channels = image_shape
    path = pathlib.Path(source.removeprefix("folder:")).expanduser()
    if path.is_dir():
        images = folders.read_some(path, number, seed, tuple(size))
    else:
        if path.suffix == ".npz":
            images = files.from_npz(path, labelled=False).train.images
        else:
            images = _find(source, None, data_dir)[0].train.images
        chosen = np.random.default_rng(seed).permutation(len(images))[:number]
        images = _resized(images[chosen], tuple(size))
    if channels == 1:
        images = _gray(images)
    elif images.shape[-1] == 1:
        images = np.repeat(images, channels, axis=-1)
    if images.shape[-1] != channels:
        raise UserError(
            f"{source}: images have {images.shape[-1]} channels, but the zoo's networks read "
            f"{channels}; give others"
        )
    return scaled(images)


def _find(
    source: str, resize: tuple[int, int] | None, data_dir: pathlib.Path | None
) -> tuple[Found, str]:
    """The source's images and its short name."""
    scheme, _, rest = source.partition(":")
    if source == "digits":
        return digits(), source
    if source in downloads.PUBLIC:
        return downloads.public(source, data_dir or user_cache.default_dir()), source
    if scheme == "tfds" and rest:
        from probegen_jax.factory.images import tfds_images  # a second to import

        return tfds_images.read(rest, data_dir), rest.replace("/", "_")
    ours = ("idx", "folder", *grids.KINDS, grids.POINTS)
    path = pathlib.Path(rest if scheme in ours and rest else source).expanduser()
    name = path.resolve().name.removesuffix(".npz").removesuffix(".npy") or "images"
    if scheme == "idx" and rest:
        return files.from_idx(path), name
    if scheme in (*grids.KINDS, grids.POINTS) and rest:
        return grids.read(scheme, path), name
    if path.suffix == ".npz":
        return files.from_npz(path), name
    if scheme == "folder" or path.is_dir():
        return folders.read(path, resize), name
    raise UserError(f"no images at {source!r}; give {SOURCES}")


def digits() -> Found:
    """scikit-learn's 1,797 digits."""
    from sklearn.datasets import load_digits  # a second to import, and only this source needs it

    loaded = load_digits()
    images = (loaded.images[..., None] / 16).astype(np.float32)
    return Found(files.part(images, loaded.target, "digits"))


def _coordinates(part: Part) -> tuple[int, ...]:
    return () if part.points is None else part.points.shape[2:]


def _drawn(all_images: Part, source: str) -> list[Part]:
    """Parts to train and to test on."""
    number = len(all_images)
    tests = max(1, round(number * _TEST_SHARE))
    if number < 3:
        raise UserError(f"{source}: has {number} images; a zoo needs at least 3")
    order = np.random.default_rng(_SPLIT_SEED).permutation(number)
    rows = np.sort(order[tests:]), np.sort(order[:tests])
    return [all_images.take(part) for part in rows]


def _joined(first: Part, second: Part, source: str) -> Part:
    pair = first.images, second.images
    kinds = [f"{'×'.join(map(str, images.shape[1:]))} {images.dtype}" for images in pair]
    if kinds[0] != kinds[1]:
        raise UserError(f"{source}: images to train on are {kinds[0]}, for validation {kinds[1]}")
    points = first.points
    if points is not None:
        points = np.concatenate([points, second.points])
    return Part(np.concatenate(pair), np.concatenate([first.labels, second.labels]), points)


def _gray(images: Num[np.ndarray, "N *grid C"]) -> Num[np.ndarray, "N *grid 1"]:
    if images.shape[-1] == 1:
        return images
    out = np.empty((*images.shape[:-1], 1), images.dtype)
    for index, image in enumerate(images):  # one at a time: a float copy of all may not fit
        mean = image.mean(-1, keepdims=True, dtype=np.float32)
        out[index] = np.rint(mean) if images.dtype == np.uint8 else mean
    return out


def _resized(
    images: Num[np.ndarray, "N H W C"], size: tuple[int, int]
) -> Num[np.ndarray, "N H2 W2 C"]:
    if images.shape[1:3] == size:
        return images
    from PIL import Image

    out = np.empty((len(images), *size, images.shape[-1]), images.dtype)
    for index, image in enumerate(images):
        for channel in range(images.shape[-1]):
            plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
            out[index, ..., channel] = plane.resize(size[::-1], Image.Resampling.BILINEAR)
    # Interpolated floats may leave the range by a rounding.
    return out if out.dtype == np.uint8 else np.clip(out, 0, 1)


def digest(parts: list[Part]) -> str:
    """SHA-256 of all pixels and labels."""
    hashed = hashlib.sha256()
    for part in parts:
        points = () if part.points is None else (part.points,)
        for array in (part.images, part.labels, *points):
            hashed.update(f"{array.dtype} {array.shape}".encode())
            hashed.update(np.ascontiguousarray(array))
    return hashed.hexdigest()
