"""Views of an image: the image moved a little, for networks of their own."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

# Largest shift as a share of the image's sides, and largest angle in degrees.
SHIFT, ROTATION = 1 / 8, 15.0


@dataclasses.dataclass(frozen=True)
class Views:
    """How many views an image has besides itself, and how they differ from it.

    Attributes:
      number: of each image.
      moves: of "flip" (every other view, from the first, is mirrored left to right), "shift" (by
        whole pixels) and "rotate".
    """

    number: int = 0
    moves: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a build's plan has it: nothing where there are no views."""
        return {"views": {"number": self.number, "moves": list(self.moves)}} if self.number else {}

    def drawn(
        self,
        images: Float[np.ndarray, "N H W C"],
        numbers: Int[np.ndarray, " N"],
        images_N: Int[np.ndarray, " N"],
        seed: int,
    ) -> Float[np.ndarray, "N H W C"]:
        """The view of each image that is asked for, which its own numbers and the seed decide.

        Args:
          numbers: of each view, from 0; below 0 for the image as it is.
          images_N: the number of each image.
        """
        views = images.copy()
        for row in np.flatnonzero(numbers >= 0):
            rng = np.random.default_rng([seed, int(images_N[row]), int(numbers[row])])
            views[row] = self._view(images[row], int(numbers[row]), rng)
        return views

    def _view(
        self, image: Float[np.ndarray, "H W C"], number: int, rng: np.random.Generator
    ) -> Float[np.ndarray, "H W C"]:
        """Beyond its edges an image goes on as its mirror image."""
        from scipy.ndimage import affine_transform

        sides = np.array(image.shape[:2])
        most = np.maximum(1, np.round(SHIFT * sides)).astype(int)
        shift = rng.integers(-most, most + 1) if "shift" in self.moves else np.zeros(2)
        angle = np.deg2rad(rng.uniform(-ROTATION, ROTATION)) if "rotate" in self.moves else 0.0
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if "flip" in self.moves and number % 2 == 0:
            matrix[:, 1] *= -1
        middle = (sides - 1) / 2
        offset = middle - matrix @ middle + shift
        channels = [
            affine_transform(channel, matrix, offset, order=3, mode="mirror")
            for channel in np.moveaxis(image.astype(np.float64), -1, 0)
        ]
        # A cubic spline goes beyond the values that it runs through.
        return np.clip(np.stack(channels, axis=-1), image.min(), image.max()).astype(image.dtype)
