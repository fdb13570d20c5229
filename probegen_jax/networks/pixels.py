"""How images became what networks read."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from probegen_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pixels:
    """How images in [0, 1] were normalised for networks: (image − mean) / std, by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        usable = len(self.mean) == len(self.std) and all(map(math.isfinite, self.mean))
        if not usable or not all(0 < each < math.inf for each in self.std):
            raise UserError(
                f"images' mean is {self.mean} and their std {self.std}; give both for every "
                "channel, each std above 0"
            )

    def normalise(self, images_01: Float[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N H W C"]:
        """Images on the networks' scale; a `UserError` where they have other channels."""
        if images_01.shape[-1] != len(self.mean):
            raise UserError(
                f"mean and std are those of {len(self.mean)} channels, but the networks read "
                f"images of {images_01.shape[-1]}; give one of each for every channel"
            )
        return (images_01 - np.float32(self.mean)) / np.float32(self.std)
