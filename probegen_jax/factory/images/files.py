"""Labelled images in files of the user: idx files, an `.npz`, a folder of images by class."""

import dataclasses
import gzip
import math
import pathlib
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Num

from probegen_jax.errors import UserError

# Classes there can be, so that labels that are something else are told.
_MOST_CLASSES = 100_000
_READ = 1 << 20


@dataclasses.dataclass(frozen=True)
class Part:
    """Images with their classes.

    Attributes:
      images: (N, H, W, C), uint8 or float32 in [0, 1].
      labels: class of each, from 0.
    """

    images: Num[np.ndarray, "N H W C"]
    labels: Int[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a source holds.

    Attributes:
      train: to train on; all images where the source has no test part.
      test: kept apart by the source, or None.
      class_names: in the order of the labels; None if the source has no names.
    """

    train: Part
    test: Part | None = None
    class_names: tuple[str, ...] | None = None


def part(images: np.ndarray, labels: np.ndarray, where: object) -> Part:
    """Checks arrays from elsewhere and brings them into the form of a `Part`.

    Args:
      images: (N, H, W) or (N, H, W, C); uint8, or floats in [0, 1].
      labels: whole numbers from 0, (N,) or (N, 1).

    Raises:
      UserError: anything else.
    """
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(
            f"{where}: images have shape {images.shape}; give (N, H, W) or (N, H, W, C), at least "
            "one"
        )
    if images.dtype != np.uint8:
        if not np.issubdtype(images.dtype, np.floating):
            raise UserError(f"{where}: images are {images.dtype}; give uint8, or floats in [0, 1]")
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):  # also where one is not a number
            raise UserError(
                f"{where}: pixels go from {low:g} to {high:g}; give uint8, or floats in [0, 1]"
            )
        images = images.astype(np.float32)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != images.shape[:1]:
        raise UserError(
            f"{where}: labels have shape {labels.shape}, but there are {len(images)} images"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{where}: labels are {labels.dtype}, not whole numbers")
    if labels.min() < 0 or labels.max() >= _MOST_CLASSES:
        raise UserError(
            f"{where}: labels go from {labels.min()} to {labels.max()}; they count classes from 0"
        )
    return Part(np.ascontiguousarray(images), labels.astype(np.int32))


def from_idx(folder: pathlib.Path) -> Found:
    """Idx files under MNIST's names, gzipped or not; `t10k-…` may be absent.

    Raises:
      UserError: no such files, or one that is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"idx:{folder}: there is no such folder")
    parts = {}
    for name in ("train", "t10k"):
        images, labels = (_find_idx(folder, name, what) for what in ("images", "labels"))
        if images is None and labels is None and name == "t10k":
            continue
        for what, path, dims in (("images", images, 3), ("labels", labels, 1)):
            if path is None:
                raise UserError(
                    f"idx:{folder}: no {name}-{what}-idx{dims}-ubyte here, gzipped (.gz) or not"
                )
        parts[name] = part(read_idx(images), read_idx(labels), f"idx:{folder}")
    return Found(parts["train"], parts.get("t10k"))


def _find_idx(folder: pathlib.Path, name: str, what: str) -> pathlib.Path | None:
    dims = {"images": 3, "labels": 1}[what]
    for separator in ("-", "."):
        for ending in ("", ".gz"):
            path = folder / f"{name}-{what}{separator}idx{dims}-ubyte{ending}"
            if path.is_file():
                return path
    return None


def read_idx(path: pathlib.Path) -> Num[np.ndarray, "..."]:
    """An idx file of unsigned bytes.

    No more is read than the header announces, and no more is held than the file has.

    Raises:
      UserError: it is something else, or damaged.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= 4:
                raise UserError(f"{path}: is not an idx file")
            if magic[2] != 8:
                raise UserError(f"{path}: holds values of idx type {magic[2]}, not unsigned bytes")
            header = file.read(4 * magic[3])
            shape = tuple(np.frombuffer(header, ">u4").tolist()) if len(header) % 4 == 0 else ()
            if len(shape) != magic[3]:
                raise UserError(f"{path}: is truncated within its header; fetch it again")
            size, content = math.prod(shape), bytearray()
            # One byte more than announced tells whether there are more.
            while len(content) <= size and (chunk := file.read(min(_READ, size + 1))):
                content += chunk
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch it again") from error
    if len(content) != size:
        less = "only" if len(content) < size else "more than"
        raise UserError(
            f"{path}: its header announces {size:,} bytes in shape {shape}, but it has {less} "
            f"{min(len(content), size):,}; fetch it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def from_npz(path: pathlib.Path) -> Found:
    """An `.npz` with `images` and `labels`, or with `x_train`, `y_train` and maybe `x_test`, ….

    Raises:
      UserError: it cannot be read, or holds other arrays.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            names = set(file.files)
            if {"images", "labels"} <= names:
                return Found(part(file["images"], file["labels"], path))
            if {"x_train", "y_train"} <= names:
                train = part(file["x_train"], file["y_train"], f"{path}: train")
                if not {"x_test", "y_test"} <= names:
                    return Found(train)
                return Found(train, part(file["x_test"], file["y_test"], f"{path}: test"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: is not a readable .npz ({error})") from error
    raise UserError(
        f"{path}: holds {', '.join(sorted(names)) or 'nothing'}; it needs images and labels, or "
        "x_train, y_train, x_test and y_test"
    )


def from_folder(folder: pathlib.Path, size: tuple[int, int] | None) -> Found:
    """A subfolder of images for each class, maybe below `train/` and `test/`.

    Args:
      folder: of the classes, or of `train` and `test`.
      size: height and width to which every image is brought; None: they must have one size.

    Raises:
      UserError: no folder, no images, one that cannot be read or is of another size.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    parted = (folder / "train").is_dir()
    folders = [folder / name for name in ("train", "test")] if parted else [folder]
    files: list[list[tuple[pathlib.Path, int]]] = []
    names: tuple[str, ...] = ()
    for top in folders:
        if not top.is_dir():
            continue
        classes = sorted(p for p in top.iterdir() if p.is_dir() and p.name[0] != ".")
        if files and (unknown := {p.name for p in classes} - set(names)):
            raise UserError(f"{top}: has the class {min(unknown)!r}, which {folders[0]} has not")
        names = names or tuple(p.name for p in classes)
        files.append([(file, names.index(p.name)) for p in classes for file in _images_in(p)])
        empty = next((p for p in classes if not _images_in(p)), None)
        if empty is not None:
            raise UserError(f"{empty}: there are no images in this class's folder")
        if not classes:
            raise UserError(
                f"{top}: there are no images by class here; give a folder with a subfolder of "
                "images for each class"
            )
    decoded = _decode([file for listed in files for file, _ in listed], size)
    parts, start = [], 0
    for listed in files:
        labels = np.asarray([label for _, label in listed], np.int32)
        parts.append(Part(decoded[start : start + len(listed)], labels))
        start += len(listed)
    return Found(parts[0], parts[1] if len(parts) == 2 else None, names)


def _images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    from PIL import Image

    endings = Image.registered_extensions()
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix.lower() in endings and path.name[0] != "."
    )


def _decode(
    paths: Sequence[pathlib.Path], size: tuple[int, int] | None
) -> Num[np.ndarray, "N H W C"]:
    from PIL import Image
    from tqdm import tqdm

    images = None
    gray = {_mode(path) for path in paths} <= {"1", "L"}
    for index, path in enumerate(tqdm(paths, desc="reading images", unit="image", disable=None)):
        try:
            with Image.open(path) as file:
                image = file.convert("L" if gray else "RGB")
        except Exception as error:  # files from elsewhere: pillow raises whatever it stumbles over
            raise _unreadable(path, error) from error
        if size is not None and image.size != size[::-1]:
            image = image.resize(size[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(image, np.uint8).reshape(image.height, image.width, -1)
        if images is None:
            images = np.empty((len(paths), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            height, width = images.shape[1:3]
            raise UserError(
                f"{path}: is {image.height}×{image.width}, but {paths[0]} is {height}×{width}; "
                f"bring all to one size with --resize={height}x{width}"
            )
        images[index] = pixels
    return images


def _mode(path: pathlib.Path) -> str:
    from PIL import Image

    try:
        with Image.open(path) as file:  # reads the header only
            mode = file.mode
    except Exception as error:
        raise _unreadable(path, error) from error
    if mode.startswith(("I", "F")):
        raise UserError(f"{path}: has more than 8 bits a channel (mode {mode}); convert it to 8")
    return mode


def _unreadable(path: pathlib.Path, error: Exception) -> UserError:
    reason = "no image format that is known" if "cannot identify" in str(error) else str(error)
    return UserError(f"{path}: cannot be read as an image ({reason}); repair or remove it")
