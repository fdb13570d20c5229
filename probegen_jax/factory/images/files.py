"""Labelled images in files of the user: idx files and an `.npz`."""

import dataclasses
import gzip
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num

from probegen_jax.errors import UserError
from probegen_jax.files import UNREADABLE

# Classes there can be, so that labels that are something else are told.
_MOST_CLASSES = 100_000
_READ = 1 << 20
# What unpacks to this many times its size is made up.
_FREE, _MOST_TIMES = 2**30, 100


@dataclasses.dataclass(frozen=True)
class Part:
    """Images, or signals, volumes or values at points, with the class of each, from 0.

    Attributes:
      images: uint8, of which 255 stands for 1, or float32: of images in [0, 1], else in [-1, 1].
      points: where the values of each are; None if they are on a grid.
    """

    images: Num[np.ndarray, "N *grid C"]
    labels: Int[np.ndarray, " N"]
    points: Float[np.ndarray, "N M D"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Part":
        """Some of them."""
        points = None if self.points is None else self.points[rows]
        return Part(self.images[rows], self.labels[rows], points)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a source holds: all images are `train` where it keeps no others apart.

    Names of classes are in the order of the labels; None if the source has none.
    """

    train: Part
    test: Part | None = None
    class_names: tuple[str, ...] | None = None
    val: Part | None = None


def part(images: np.ndarray, labels: np.ndarray, where: object) -> Part:
    """Checks arrays from elsewhere and brings them into the form of a `Part`.

    Images are (N, H, W) or (N, H, W, C), uint8 or floats in [0, 1], and labels whole numbers from
    0, (N,) or (N, 1); a `UserError` for anything else.
    """
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        needed = "give (N, H, W) or (N, H, W, C), at least one"
        raise UserError(f"{where}: images have shape {images.shape}; {needed}")
    if images.dtype != np.uint8:
        needed = "give uint8, or floats in [0, 1]"
        if not np.issubdtype(images.dtype, np.floating):
            raise UserError(f"{where}: images are {images.dtype}; {needed}")
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):  # also where one is not a number
            raise UserError(f"{where}: pixels go from {low:g} to {high:g}; {needed}")
        images = images.astype(np.float32)
    return with_labels(images, labels, where)


def with_labels(
    images: np.ndarray, labels: np.ndarray, where: object, kind: str = "images"
) -> Part:
    """Images, or what the `kind` is called, that are checked, and labels that are not."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    fault = None
    if labels.shape != images.shape[:1]:
        fault = f"have shape {labels.shape}, but there are {len(images)} {kind}"
    elif not np.issubdtype(labels.dtype, np.integer):
        fault = f"are {labels.dtype}, not whole numbers"
    elif labels.min() < 0 or labels.max() >= _MOST_CLASSES:
        fault = f"go from {labels.min()} to {labels.max()}; they count classes from 0"
    if fault is not None:
        raise UserError(f"{where}: labels {fault}")
    return Part(np.ascontiguousarray(images), labels.astype(np.int32))


def from_idx(folder: pathlib.Path) -> Found:
    """Idx files under MNIST's names, gzipped or not; `t10k-…` may be absent."""
    if not folder.is_dir():
        raise UserError(f"idx:{folder}: there is no such folder")
    parts = {}
    for name in ("train", "t10k"):
        needed = {f"{name}-images": 3, f"{name}-labels": 1}
        paths = [_find_idx(folder, stem, dims) for stem, dims in needed.items()]
        if paths == [None, None] and name == "t10k":
            continue
        for path, (stem, dims) in zip(paths, needed.items(), strict=True):
            if path is None:
                what = f"{stem}-idx{dims}-ubyte"
                raise UserError(f"idx:{folder}: no {what} here, gzipped (.gz) or not")
        parts[name] = part(*map(read_idx, paths), f"idx:{folder}")
    return Found(parts["train"], parts.get("t10k"))


def _find_idx(folder: pathlib.Path, stem: str, dims: int) -> pathlib.Path | None:
    names = (f"{stem}{mark}idx{dims}-ubyte{end}" for mark in "-." for end in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_idx(path: pathlib.Path) -> Num[np.ndarray, "..."]:
    """An idx file of unsigned bytes; a `UserError` if it is something else, or damaged.

    No more is read than the header announces, and no more is held than the file has.
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
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch it again") from error
    if len(content) != size:
        less = "only" if len(content) < size else "more than"
        raise UserError(
            f"{path}: its header announces {size:,} bytes in shape {shape}, but it has {less} "
            f"{min(len(content), size):,}; fetch it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def from_npz(path: pathlib.Path, labelled: bool = True) -> Found:
    """An `.npz` with `images` and `labels`, or with two arrays for each part.

    Those are called `x_train` and `y_train` or `train_images` and `train_labels`, likewise with
    `val` and `test`. Of an array of four axes the channels are the last, or, as PyTorch has it,
    the second: whichever is from 1 to 4; where that is both or neither, the one that is less than
    both sides.

    Args:
      labelled: whether there must be labels; where there are none, all are 0.

    Raises:
      UserError: it cannot be read, holds other arrays, or does not say which axis is the channels.
    """

    def read(images: np.ndarray, *labels_and_where: Any) -> Part:
        *labels, where = labels_and_where
        if images.ndim == 4 and channels_first(images, path, "images"):
            images = images.transpose(0, 2, 3, 1)
        return part(images, labels[0] if labels else np.zeros(len(images), np.int32), where)

    names = [("images", "labels"), ("x_{}", "y_{}"), ("{}_images", "{}_labels")]
    return arrays_of(path, names if labelled else [*names, ("images",)], read)


def arrays_of(
    path: pathlib.Path, names: Sequence[tuple[str, ...]], read: Callable[..., Part]
) -> Found:
    """The parts in an `.npz`, by the first of several tuples of names that its arrays have.

    Args:
      names: in small letters; `{}` stands for the part's name.
      read: makes a part of the arrays of such names, and of where they are.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            unpacked = sum(member.file_size for member in file.zip.infolist())
            if unpacked > _FREE + _MOST_TIMES * path.stat().st_size:
                raise ValueError(f"it unpacks to {unpacked:,} bytes")
            held = {name.lower(): name for name in file.files}
            for called in names:
                if "{}" not in called[0]:
                    if held.keys() >= set(called):
                        return Found(read(*(file[held[name]] for name in called), path))
                    continue
                parts = {}
                for part_of in ("train", "test", "val"):
                    own = [name.format(part_of) for name in called]
                    if held.keys() >= set(own):
                        arrays = (file[held[name]] for name in own)
                        parts[part_of] = read(*arrays, f"{path}: {part_of}")
                if "train" in parts:
                    return Found(parts["train"], parts.get("test"), None, parts.get("val"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: is not a readable .npz ({error})") from error
    needed = " and ".join(names[0])
    others = [", ".join(name.format(part) for part in ("train", "test") for name in called)
              for called in names[1:]]  # fmt: skip
    raise UserError(
        f"{path}: holds {', '.join(sorted(held.values())) or 'nothing'}; it needs {needed}, or "
        f"{others[0]}"
    )


def channels_first(images: np.ndarray, where: object, kind: str) -> bool:
    """Whether arrays are (N, C, …), by the rule of `from_npz`, and not (N, …, C)."""
    second, *middle, last = images.shape[1:]
    few = 1 <= second <= 4, 1 <= last <= 4
    first = few[0] if few[0] != few[1] else second < min([*middle, last])
    if few[0] == few[1] and first == (last < min([second, *middle])):
        raise UserError(
            f"{where}: {kind} have shape {images.shape}, and whether channels come first or last "
            "cannot be told; give (N, …, C) with sides above 4 and fewer channels"
        )
    if first:
        print(f"{where}: {kind} of shape {images.shape} are read as (N, C, …), channels first")
    return first
