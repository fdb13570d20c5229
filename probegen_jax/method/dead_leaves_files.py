"""The published dead-leaves images of Baradad et al. (2021), from their zip or a folder.

The zip is left as it is: images are read in place.
"""

import io
import pathlib
import zipfile
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float

from probegen_jax.errors import UserError
from probegen_jax.files import UNREADABLE
from probegen_jax.networks.pixels import Pixels

PUBLISHED_URL = (
    "http://data.csail.mit.edu/noiselearning/zipped_data/small_scale/dead_leaves-textures.zip"
)

Fidelity = Literal["faithful", "official"]

# Beyond what an image of dead leaves has, and few enough for any memory.
_MOST_BYTES, _MOST_PIXELS = 2**28, 2**26

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def read(
    path: pathlib.Path,
    number: int,
    image_shape: tuple[int, int, int],
    seed: int,
    pixels: Pixels,
    fidelity: Fidelity = "faithful",
    official_choice: bool = False,
) -> Float[np.ndarray, "N h w C"]:
    """Some of the published images, prepared as probes.

    Colour (C = 3), either way: resized to H×W with an antialiased bilinear filter, scaled to
    [0, 1], then normalised, as the official code does. Grayscale (C = 1): "official" converts to
    luma (0.299 R + 0.587 G + 0.114 B), scales to [0, 1], and neither resizes nor normalises, so
    that probes are 128×128 on another scale than the networks' own images. "faithful" resizes,
    takes the mean over channels, as the Small CNN Zoo was trained, and normalises.

    Args:
      number: N images, chosen without replacement.
      image_shape: H, W, C of the zoo's images; C is 1 or 3.
      pixels: how these were normalised.
      official_choice: choose as the official code does that was started with `--seed`.

    Returns:
      float32; (h, w) is (H, W), or the files' own size for "official" grayscale.
    """
    height, width, channels = image_shape
    if channels not in (1, 3):
        raise UserError(
            f"published dead leaves are RGB or made gray, but the zoo's images have {channels} "
            "channels; use generated ones"
        )
    if fidelity not in ("faithful", "official"):
        raise UserError(f"fidelity is {fidelity!r}; it must be 'faithful' or 'official'")
    names, read = _open(path)
    if len(names) < number:
        raise UserError(f"{path} holds {len(names)} images, but {number} are asked for")
    if official_choice:  # scikit-learn's train_test_split, drawing from NumPy's global state
        chosen = np.random.RandomState(seed).permutation(len(names))[:number]
    else:
        chosen = np.random.default_rng(seed).choice(len(names), number, replace=False)
    official_gray = channels == 1 and fidelity == "official"
    size = None if official_gray else (height, width)
    files = [(read(names[index]), f"{path}: {names[index]}") for index in chosen]
    images = np.stack([_decode(data, where, size) for data, where in files])
    if official_gray:
        return images
    if channels == 1:
        images = images.mean(axis=-1, keepdims=True)
    return pixels.normalise(images)


def find(source: str, folder: pathlib.Path) -> pathlib.Path:
    """The zip or folder of published images: `source`, or, if "published", fetched to `folder`."""
    return fetch(folder) if source == "published" else pathlib.Path(source).expanduser()


def fetch(folder: pathlib.Path, url: str = PUBLISHED_URL) -> pathlib.Path:
    """The published zip in `folder`, downloaded if it is not there yet; see `download.fetch`."""
    from probegen_jax.zoo.files import download  # brings TFDS, which only this needs

    by_hand = "a folder and name the file with --config.dead_leaves=PATH"
    address = download.Address(url, "dead_leaves-textures.zip", zipped=True, by_hand=by_hand)
    return download.fetch(address, folder)


def _open(path: pathlib.Path) -> tuple[list[str], Callable[[str], bytes]]:
    """Sorted names of the images under `path` (a zip or a folder), and how to read one."""
    if path.is_dir():
        folder = path / "train" if (path / "train").is_dir() else path
        names = [str(p.relative_to(folder)) for p in folder.rglob("*") if _is_image(p.name)]
        if not names:
            raise UserError(f"no images under {folder}; it should hold dead leaves as .jpg or .png")
        return sorted(names), lambda name: (folder / name).read_bytes()
    if not path.is_file():
        raise UserError(f"no dead leaves at {path}; name the zip of {PUBLISHED_URL} or its folder")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is neither a folder nor a zip; download it again")
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a whole zip ({error}); download it again") from error
    names = [name for name in archive.namelist() if _is_image(name)]
    names = [name for name in names if "train" in pathlib.PurePosixPath(name).parts[:-1]]
    if not names:
        raise UserError(f"{path} holds no images under train/; download it again")

    def read(name: str) -> bytes:
        try:
            if archive.getinfo(name).file_size > _MOST_BYTES:
                raise ValueError(f"unpacks to more than {_MOST_BYTES:,} bytes")
            return archive.read(name)
        except UNREADABLE as why:
            told = f"{path}: {name}: cannot be unpacked ({why}); download it again"
            raise UserError(told) from why

    return sorted(names), read


def _is_image(name: str) -> bool:
    base = pathlib.PurePosixPath(name).name
    return base.lower().endswith(_SUFFIXES) and not base.startswith(".")


def _decode(data: bytes, where: str, size: tuple[int, int] | None) -> Float[np.ndarray, "h w C"]:
    """One image file as float32 in [0, 1]: of a (height, width), or its own in luma if None."""
    from PIL import Image  # only published images need it

    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"{image.width}×{image.height} pixels")
        image = image.convert("RGB")
    except Exception as error:  # bytes from elsewhere: pillow raises whatever it stumbles over
        raise UserError(f"{where} is not a readable image ({error}); download it again") from error
    image = image.resize(size[::-1], Image.Resampling.BILINEAR) if size else image.convert("L")
    pixels = np.asarray(image, np.float32) / 255
    return pixels.reshape(*pixels.shape[:2], -1)
