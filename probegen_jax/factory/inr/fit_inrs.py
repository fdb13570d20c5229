"""Which networks an INR zoo has; and fits them, in parts, and again where one falls short."""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from probegen_jax.errors import UserError
from probegen_jax.factory.images.sources import ImageSet, scaled
from probegen_jax.factory.inr import fit
from probegen_jax.factory.inr.views import Views
from probegen_jax.networks.points import PointSpec
from probegen_jax.zoo.cache import Arrays
from probegen_jax.zoo.splits import INR_VAL_SHARE

# How often a network that falls short of `min_psnr` is fitted again, from another start.
RETRIES = 3


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of a zoo, in the order train, val, test.

    Attributes:
      image: of each network; it counts through the images to train on, then those to test on.
      copy: of each network, from 0 for each image.
      label: the image's class.
      splits: rows of each split.
    """

    image: Int[np.ndarray, " N"]
    copy: Int[np.ndarray, " N"]
    label: Int[np.ndarray, " N"]
    splits: dict[str, Any]

    def __len__(self) -> int:
        return len(self.image)


def choose(
    images: ImageSet, num: int | None, copies: int, seed: int, val_share: float = INR_VAL_SHARE
) -> Networks:
    """The networks for a source of images.

    Test networks are of the source's test images, validation networks of its images for that;
    where it has none, a share of the others is for validation. All copies of an image are in one
    split.

    Args:
      num: so many images, drawn by seed, in the source's proportion of test images; None: all.
      val_share: as of Navon et al.'s zoos, a twelfth.

    Raises:
      UserError: more images are asked for than there are, or too few for three splits.
    """
    total = len(images.train) + len(images.test)
    number = num or total
    if number > total:
        raise UserError(f"--num is {number:,}, but {images.name} has {total:,} images")
    tests = max(1, round(number * len(images.test) / total))
    if number - tests < 2 or number - tests > len(images.train):
        raise UserError(f"{number} images are too few for train, val and test; give more")
    rng = np.random.default_rng(seed)
    train = np.sort(rng.permutation(len(images.train))[: number - tests])
    test = np.sort(rng.permutation(len(images.test))[:tests])
    is_val = np.zeros(len(train), bool)
    is_val[rng.permutation(len(train))[: max(1, round(val_share * len(train)))]] = True
    if images.num_val:
        is_val = train >= len(images.train) - images.num_val
        if not 0 < is_val.sum() < len(train):
            raise UserError(f"{number} images are too few for train, val and test; give more")
    parts = {"train": train[~is_val], "val": train[is_val], "test": len(images.train) + test}
    ends = np.cumsum([0, *(len(rows) * copies for rows in parts.values())]).tolist()
    splits = dict(zip(parts, itertools.starmap(range, itertools.pairwise(ends)), strict=True))
    image = np.repeat(np.concatenate(list(parts.values())), copies).astype(np.int32)
    copy = np.tile(np.arange(copies, dtype=np.int32), number)
    labels = np.concatenate([images.train.labels, images.test.labels])
    return Networks(image, copy, labels[image], splits)


class InrFactory:
    """Fits networks by part; each part follows from the plan and its number alone.

    Attributes:
      sizes: networks in each part.
    """

    def __init__(
        self,
        images: ImageSet,
        networks: Networks,
        spec: PointSpec,
        recipe: fit.Recipe,
        seed: int,
        part_size: int,
        min_psnr: float | None = None,
        copies: int = 1,
        views: Views | None = None,
    ):
        """Args:
        copies: networks of each image as it is; those after them are of its views.
        """
        number = len(networks)
        self.sizes = [min(part_size, number - start) for start in range(0, number, part_size)]
        self._networks, self._part_size, self._min_psnr = networks, part_size, min_psnr
        self._copies, self._views, self._seed = copies, views or Views(), seed
        parts = images.train, images.test
        self._pixels = np.concatenate([part.images for part in parts])
        # Networks without a shift draw images in [-1, 1], as `PointSpec.render` knows.
        self._centred = spec.output_shift == 0 and not images.signed
        self._points = None
        if images.train.points is not None:
            self._points = np.concatenate([part.points for part in parts])
        block = fit.default_block_size(
            spec, recipe, images.image_shape, jax.local_devices()[0].platform
        )
        blocks = -(-part_size // (block * jax.local_device_count()))
        peak = 2.0 if self._centred else 1.0
        self._fitter = fit.Fitter(spec, recipe, seed, images.image_shape, blocks=blocks, peak=peak)

    def make(self, part: int) -> Arrays:
        """Fits a part.

        Returns:
          `weights` (n, V), `psnr` (n,) in dB and `starts` (n,), how often it was tried, by name.

        Raises:
          UserError: networks diverge.
        """
        rows = slice(part * self._part_size, (part + 1) * self._part_size)
        image, copy = self._networks.image[rows], self._networks.copy[rows]
        targets = scaled(self._pixels[image])
        if self._views.number:
            targets = self._views.drawn(targets, copy - self._copies, image, self._seed)
        targets = 2 * targets - 1 if self._centred else targets
        points = None if self._points is None else self._points[image]
        # An image's network is the same, however many images or copies are fitted.
        indices = copy * len(self._pixels) + image
        weights, psnr = self._fitter(targets, indices, points=points)
        starts = np.ones(len(psnr), np.int32)
        for attempt in range(1, RETRIES + 1):
            # A network that diverged is not above anything.
            short = np.flatnonzero(~(psnr >= (self._min_psnr or -np.inf)))
            if not len(short):
                break
            at = None if points is None else points[short]
            again, better = self._fitter(targets[short], indices[short], attempt, at)
            starts[short] += 1
            won = ~(psnr[short] >= better)
            weights[short[won]], psnr[short[won]] = again[won], better[won]
        if not np.isfinite(weights).all() or not np.isfinite(psnr).all():
            raise UserError(
                f"networks diverge at learning rate {self._fitter.recipe.learning_rate}; give a "
                "lower one with --learning_rate=X and another folder with --out=DIR"
            )
        return {"weights": weights, "psnr": psnr, "starts": starts}
