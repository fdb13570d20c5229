"""Labelled images in a folder of the user: a subfolder for each class."""

import pathlib
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Num

from probegen_jax.errors import UserError
from probegen_jax.factory.images.files import Found, Part

_MOST_PIXELS = 2**26
# How folders of parts are called, in letters alone: `Train`, `test_images` and `val2017` are some.
_PART = re.compile(
    "(?:(?P<train>train|training|trn)|(?P<val>val|valid|validation|dev)|(?P<test>test|testing|tst))"
    "(?:set|data|split|images|imgs)?"
)


def read(folder: pathlib.Path, size: tuple[int, int] | None) -> Found:
    """A subfolder of images for each class, maybe below folders of parts.

    Those are called train, val and test in any usual way: `Training/`, `valid/`, `test_set/`, …
    A folder of such a name that has images and no folders by class is a class. Every image is
    brought to the `size`, height and width; if None, they must have one size.

    Raises:
      UserError: no folder, no images, parts that cannot be told, an image that cannot be read or is
        of another size.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    parts = _parts(folder) or {"train": folder}
    files: list[pathlib.Path] = []
    labels: dict[str, list[int]] = {}
    names = tuple(path.name for path in _folders(parts["train"]))
    for part, top in parts.items():
        classes, labels[part] = _folders(top), []
        if unknown := {path.name for path in classes} - set(names):
            raise UserError(
                f"{top}: has the class {min(unknown)!r}, which {parts['train']} has not"
            )
        for path in classes:
            images = _images_in(path)
            if not images:
                raise UserError(f"{path}: there are no images in this class's folder")
            files += images
            labels[part] += [names.index(path.name)] * len(images)
        if not classes:
            raise UserError(
                f"{top}: there are no images by class here; give a folder with a subfolder of "
                "images for each class"
            )
    ends = np.cumsum([len(of_part) for of_part in labels.values()])
    made = {
        part: Part(pixels, np.asarray(labels[part], np.int32))
        for part, pixels in zip(labels, np.split(_decode(files, size), ends[:-1]), strict=True)
    }
    return Found(made["train"], made.get("test"), names, made.get("val"))


def read_some(
    folder: pathlib.Path, number: int, seed: int, size: tuple[int, int]
) -> Num[np.ndarray, "N H W C"]:
    """Images anywhere below a folder, brought to a `size`: `number` of them, or all if fewer.

    Raises:
      UserError: there are none, or one cannot be read.
    """
    files = _images_in(folder)
    if not files:
        raise UserError(f"{folder}: there are no images here; give a folder that has some")
    chosen = np.random.default_rng(seed).permutation(len(files))[:number]
    return _decode([files[n] for n in chosen], size)


def _parts(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The folders of train, val and test; empty where the folder holds classes."""
    below, called = _folders(folder), {}
    for path in below:
        match = _PART.fullmatch(re.sub("[^a-z]", "", path.name.lower()))
        called[path] = match and match.lastgroup
    parts = [path for path in below if called[path] and any(map(_images_in, _folders(path)))]
    if not parts:
        if len(set(called.values())) > 1 and all(called.values()):
            raise UserError(
                f"{folder}: {' and '.join(path.name for path in below)} have no subfolders by "
                "class; put the images of each class into a folder of their own"
            )
        return {}
    others = [path for path in below if path not in parts and _images_in(path)]
    if others:
        raise UserError(
            f"{folder}: holds {parts[0].name!r} with folders by class, and {others[0].name!r} with "
            "images besides; give parts (train, val, test) alone, or classes alone"
        )
    found: dict[str, pathlib.Path] = {}
    for path in parts:
        twin = found.setdefault(called[path], path)
        if twin is not path:
            raise UserError(
                f"{folder}: {twin.name!r} and {path.name!r} are both for {called[path]}; keep one"
            )
    if "train" not in found:
        raise UserError(
            f"{folder}: holds {', '.join(path.name for path in parts)} and nothing to train on; "
            "add a folder train with a subfolder for each class"
        )
    return {part: found[part] for part in ("train", "val", "test") if part in found}


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


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
    gray = {_checked_mode(path) for path in paths} <= {"1", "L"}
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


def _checked_mode(path: pathlib.Path) -> str:
    from PIL import Image

    try:
        with Image.open(path) as file:  # reads the header only
            mode, pixels = file.mode, file.width * file.height
    except Exception as error:
        raise _unreadable(path, error) from error
    if pixels > _MOST_PIXELS:
        raise UserError(f"{path}: has {pixels:,} pixels, which is too much; make it smaller")
    if mode.startswith(("I", "F")):
        raise UserError(f"{path}: has more than 8 bits a channel (mode {mode}); convert it to 8")
    return mode


def _unreadable(path: pathlib.Path, error: Exception) -> UserError:
    reason = "no image format that is known" if "cannot identify" in str(error) else str(error)
    return UserError(f"{path}: cannot be read as an image ({reason}); repair or remove it")
