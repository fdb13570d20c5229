"""Fits the networks of a planned zoo: in parts, and again where one falls short."""

import jax
import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.factory.images.sources import ImageSet, scaled
from probegen_jax.factory.inr import fit
from probegen_jax.factory.inr.planned import Networks
from probegen_jax.networks.siren import SirenSpec

# How often a network that falls short of `min_psnr` is fitted again, from another start.
RETRIES = 3

Arrays = dict[str, np.ndarray]


class InrFactory:
    """Fits networks by part; each part follows from the plan and its number alone.

    Attributes:
      sizes: networks in each part.
    """

    def __init__(
        self,
        images: ImageSet,
        networks: Networks,
        spec: SirenSpec,
        recipe: fit.Recipe,
        seed: int,
        part_size: int,
        min_psnr: float | None = None,
    ):
        starts = range(0, len(networks), part_size)
        self.sizes = [min(part_size, len(networks) - start) for start in starts]
        self._networks, self._part_size, self._min_psnr = networks, part_size, min_psnr
        self._pixels = np.concatenate([images.train.images, images.test.images])
        shape = images.image_shape
        block = fit.default_block_size(spec, recipe, shape)
        blocks = -(-part_size // (block * jax.local_device_count()))
        self._fitter = fit.Fitter(spec, recipe, seed, shape, blocks=blocks)

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
        # An image's network is the same, however many images or copies are fitted.
        indices = copy * len(self._pixels) + image
        weights, psnr = self._fitter(targets, indices)
        starts = np.ones(len(psnr), np.int32)
        for attempt in range(1, RETRIES + 1):
            # A network that diverged is not above anything.
            short = np.flatnonzero(~(psnr >= (self._min_psnr or -np.inf)))
            if not len(short):
                break
            again, better = self._fitter(targets[short], indices[short], attempt)
            starts[short] += 1
            won = ~(psnr[short] >= better)
            weights[short[won]], psnr[short[won]] = again[won], better[won]
        if not np.isfinite(weights).all() or not np.isfinite(psnr).all():
            raise UserError(
                f"networks diverge at learning rate {self._fitter.recipe.learning_rate}; give a "
                "lower one with --learning_rate=X and another folder with --out=DIR"
            )
        return {"weights": weights, "psnr": psnr, "starts": starts}
