"""What networks on points draw."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float


class Drawable:
    """The part of `contract.NetworkSpec` for pictures of what networks draw.

    Attributes:
      plane: where probes are points of an image: "xy" if the column comes first, "ij" if the row.
      output_shift: what is added to the last layer's output, if anything is.
    """

    plane: Literal["xy", "ij"] | None = None
    output_shift: float | None = None

    def render(self, weights: Any, *sides: int) -> Float[np.ndarray, "N *grid C"] | None:
        """What stacked networks draw on a grid, of as many sides as a point has coordinates.

        On the image plane, height and width, and in space values are brought to [0, 1]. None if
        they draw nothing.
        """
        return None

    def draws(
        self, weights: Any, sizes: Sequence[tuple[int, ...]]
    ) -> list[Float[np.ndarray, "N *grid C"]] | None:
        """What `render` shows, on grids of several sizes, as the networks answer it."""
        return None

    def at_w0(self, weights: Any, w0: float, w0_first: float) -> Any | None:
        """Stacked weights with which this spec computes what one of another w0 does with `weights`.

        Args:
          w0: factor inside sines; `w0_first`: inside those of the first layer.

        Returns:
          None where the networks have no sines.
        """
        return None

    def phase_gain(self, weights: Any) -> float | None:
        """How large hidden kernels are, in units of a SIREN's before training; None without sines.

        Of stacked networks, by root mean square.
        """
        return None
