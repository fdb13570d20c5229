"""Small images that INRs fit in no time, and what tests of INR zoos share."""

import pathlib

import numpy as np

from probegen_jax import build_zoo
from probegen_jax.zoo.prepared import build_folder as data_set
from probegen_jax.zoo.prepared.reading import read

IMAGES = 42


def write_images(path: pathlib.Path, number: int = IMAGES) -> pathlib.Path:
    """Blurred discs in ten classes, 6×6, the last seventh kept for test."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:6, :6]
    centers, labels = rng.uniform(1, 4, (number, 2, 1, 1)), np.arange(number) % 10
    distance = np.hypot(y - centers[:, 0], x - centers[:, 1]) - labels[:, None, None] / 5
    pixels = np.round(255 / (1 + np.exp(3 * distance))).astype(np.uint8)
    cut = number - number // 7
    np.savez(path, x_train=pixels[:cut], y_train=labels[:cut], x_test=pixels[cut:],
             y_test=labels[cut:])  # fmt: skip
    return path


def colours(path, number=21):
    """Smooth images of three channels, 8×6: rows and columns differ."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:8, :6]
    phases = rng.uniform(0, 6, (number, 1, 1, 3)) + np.stack([y / 3, x / 2, (x + y) / 4], axis=-1)
    np.savez(path, images=np.uint8(127 + 120 * np.sin(phases)), labels=np.arange(number) % 10)
    return path


def build(source, out, *flags):
    build_zoo.main(["x", "inr", f"--images={source}", f"--out={out}", *flags])


def columns_of(out):
    columns, rows = read(data_set.opened(out))
    return {name: np.asarray(column) for name, column in columns.items()}, rows
