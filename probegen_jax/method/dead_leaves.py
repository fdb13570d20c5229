"""Dead leaves: opaque shapes of all sizes that occlude one another.

They have much of the statistics of nature without a camera (Lee, Mumford & Huang, 2001; Baradad et
al., Learning to See by Looking at Noise, NeurIPS 2021). As probes they are a baseline that is not
trained. `generate` makes them here; `probe_bank` prepares those or the published ones as probes.
"""

import pathlib

import numpy as np
from jaxtyping import Bool, Float, Int

from probegen_jax.method import dead_leaves_files
from probegen_jax.method.dead_leaves_files import Fidelity
from probegen_jax.networks.pixels import Pixels

# Radii as parts of the image's side, of density ∝ 1/r³ between these, as in the published images.
_MIN_RADIUS, _MAX_RADIUS = 0.03, 1.0
_SUPERSAMPLING = 4  # the published images are 128×128 and shown at 32×32
_LEAVES_AT_ONCE = 32
_NUM_TEXTURES = 64


def generate(
    number: int, height: int, width: int, channels: int, seed: int
) -> Float[np.ndarray, "N H W C"]:
    """Textured dead-leaves images of our own making.

    Leaves are discs, squares, rectangles, triangles and quadrilaterals, thrown uniformly on the
    image with radii of density ∝ 1/r³, each with its own colour and a random 1/f^α texture. They
    are laid from the front to the back until nothing shows through, which is the exact law of
    infinitely many of them.

    Args:
      number: N images, of height × width pixels.
      seed: image i depends on (seed, i) alone; the bytes are the same on every call.

    Returns:
      float32 in [0, 1].
    """
    rows, cols = height * _SUPERSAMPLING, width * _SUPERSAMPLING
    textures = _textures(np.random.default_rng([seed, 0]), rows, cols)
    images = np.empty((number, height, width, channels), np.float32)
    for index in range(number):
        rng = np.random.default_rng([seed, 1, index])
        leaf_of_pixel, num_leaves = _cover(rng, rows, cols)
        fine = _paint(rng, leaf_of_pixel, num_leaves, textures, channels)
        blocks = fine.reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING, channels)
        images[index] = blocks.mean(axis=(1, 3))
    return images


def probe_bank(
    source: str,
    number: int,
    image_shape: tuple[int, int, int],
    seed: int,
    *,
    pixels: Pixels,
    fidelity: Fidelity = "faithful",
    folder: pathlib.Path,
) -> Float[np.ndarray, "N h w C"]:
    """Dead leaves ready to be shown to a zoo's networks.

    Args:
      source: "generated"; "published", which downloads their zip to `folder` once; or the path of
        that zip or of an unpacked folder.
      seed: of the images, or of the choice among the published ones.
      pixels: how the zoo's images were normalised.
      fidelity: how published images are prepared, see `dead_leaves_files.read`. Generated ones are
        made at H×W and normalised, whatever it says.

    Returns:
      float32 on the scale that the networks read.

    Raises:
      UserError: the published images cannot be had or read.
    """
    if source == "generated":
        return pixels.normalise(generate(number, *image_shape, seed))
    path = dead_leaves_files.find(source, folder)
    return dead_leaves_files.read(path, number, image_shape, seed, pixels, fidelity)


def _textures(rng: np.random.Generator, rows: int, cols: int) -> Float[np.ndarray, "textures h w"]:
    """Periodic noise of amplitude 1/f^α, α from 0.5 (rough) to 2 (smooth); mean 0, deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(cols)[None])
    frequency[0, 0] = np.inf  # no mean
    textures = np.empty((_NUM_TEXTURES, rows, cols), np.float32)
    for texture in textures:
        amplitude = frequency ** -rng.uniform(0.5, 2)
        noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(rows, cols))) * amplitude, (rows, cols))
        texture[:] = noise / noise.std()
    return textures


def _cover(rng: np.random.Generator, rows: int, cols: int) -> tuple[Int[np.ndarray, "h w"], int]:
    """Which leaf each pixel shows, and how many leaves were laid."""
    y, x = np.indices((rows, cols), np.float32).reshape(2, -1) + np.float32(0.5)
    leaf_of_pixel = np.zeros(rows * cols, np.int64)
    bare = np.arange(rows * cols)
    laid = 0
    while len(bare):
        covers = _leaves(rng, x[bare], y[bare], rows, cols)
        covered = covers.any(axis=0)
        leaf_of_pixel[bare[covered]] = laid + covers[:, covered].argmax(axis=0)
        bare = bare[~covered]
        laid += _LEAVES_AT_ONCE
    return leaf_of_pixel.reshape(rows, cols), laid


def _radii(rng: np.random.Generator, number: int) -> Float[np.ndarray, " leaves"]:
    """Radii as parts of the image's side, from the inverse of their distribution function."""
    least, most = _MIN_RADIUS**-2, _MAX_RADIUS**-2
    return 1 / np.sqrt(least - rng.uniform(size=number) * (least - most))


def _leaves(
    rng: np.random.Generator,
    x: Float[np.ndarray, " points"],
    y: Float[np.ndarray, " points"],
    rows: int,
    cols: int,
) -> Bool[np.ndarray, "leaves points"]:
    """Throws some leaves; which of the points (x, y) does each cover?"""
    number = _LEAVES_AT_ONCE
    radius = max(rows, cols) * _radii(rng, number)
    centre_x, centre_y = rng.uniform(0, cols, number), rng.uniform(0, rows, number)

    # Polygons have four corners on their circle, in order; a triangle's last one counts twice.
    free = np.sort(rng.uniform(0, 2 * np.pi, (number, 4)), axis=1)
    triangle = free[:, [0, 1, 2, 2]]
    square = np.pi * (np.arange(4) / 2 + 0.25) + np.zeros((number, 1))
    turned = square + free[:, :1]
    half = free[:, :1] / 4
    rectangle = np.concatenate([half, np.pi - half, np.pi + half, 2 * np.pi - half], axis=1)
    kind = rng.integers(0, 6, number)  # 0 is a disc: the circle alone bounds it
    angles = np.select(
        [kind[:, None] == shape for shape in range(1, 6)],
        [square, turned, rectangle, triangle, free],
        0.0,
    )
    dx = x[None] - centre_x[:, None].astype(np.float32)
    dy = y[None] - centre_y[:, None].astype(np.float32)
    covers = dx**2 + dy**2 <= radius[:, None].astype(np.float32) ** 2
    corner_x = (radius[:, None] * np.cos(angles)).astype(np.float32)
    corner_y = (radius[:, None] * np.sin(angles)).astype(np.float32)
    for i in range(4):
        edge_x = corner_x[:, (i + 1) % 4] - corner_x[:, i]
        edge_y = corner_y[:, (i + 1) % 4] - corner_y[:, i]
        # Left of the edge, or on it; all points are where an edge has no length.
        side = edge_x[:, None] * (dy - corner_y[:, i, None])
        side -= edge_y[:, None] * (dx - corner_x[:, i, None])
        covers &= side >= 0
    return covers


def _paint(
    rng: np.random.Generator,
    leaf_of_pixel: Int[np.ndarray, "h w"],
    num_leaves: int,
    textures: Float[np.ndarray, "textures h w"],
    channels: int,
) -> Float[np.ndarray, "h w C"]:
    """Colours the leaves: a flat colour, and one texture, shifted, in a mixture of its channels."""
    rows, cols = leaf_of_pixel.shape
    colour = rng.uniform(size=(num_leaves, channels)).astype(np.float32)
    contrast = rng.uniform(0, 0.3, (num_leaves, 1, 1)) / np.sqrt(channels)
    mixing = (contrast * rng.normal(size=(num_leaves, channels, channels))).astype(np.float32)
    texture = rng.integers(0, len(textures), num_leaves)[leaf_of_pixel]
    shift = rng.integers(0, (rows, cols), (num_leaves, channels, 2))[leaf_of_pixel]
    y, x = np.indices((rows, cols))
    image = colour[leaf_of_pixel]
    for channel in range(channels):
        shifted_y = (y + shift[..., channel, 0]) % rows
        shifted_x = (x + shift[..., channel, 1]) % cols
        value = textures[texture, shifted_y, shifted_x]
        image = image + mixing[leaf_of_pixel][..., channel, :] * value[..., None]
    return np.clip(image, 0, 1)
