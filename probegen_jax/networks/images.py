"""What networks on images share."""

from typing import Any

from probegen_jax.errors import UserError
from probegen_jax.networks.contract import NetworkSpec


class ImageSpec(NetworkSpec):
    """Networks whose probes are images, (H, W, C), and whose answers are a value a class.

    Attributes:
      image_shape: of the images that they read.
      num_classes: what `response_dim` is, unless the family defines that itself.
    """

    image_shape: tuple[int, int, int]
    num_classes: int

    @property
    def probe_shape(self) -> tuple[int, int, int]:
        return self.image_shape

    @property
    def response_dim(self) -> int:
        return self.num_classes

    def check_images(self, probes: Any) -> None:
        """Raises a `UserError` unless `probes` (anything with a shape) are (P, *image_shape)."""
        if len(probes.shape) != 4 or tuple(probes.shape[1:]) != self.image_shape:
            raise UserError(
                f"probes have shape {tuple(probes.shape)}, but these networks read images "
                f"(P, {', '.join(map(str, self.image_shape))})"
            )
