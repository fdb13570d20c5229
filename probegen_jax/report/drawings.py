"""What INRs draw, as plain arrays: on a line, on the image plane, in space."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from probegen_jax.zoo.zoo import Zoo

# Values along a side of a drawing where images have no size, and at most, by coordinates.
_SIDES = {1: (256, 1024), 2: (64, 256), 3: (32, 48)}


@dataclasses.dataclass(frozen=True)
class View:
    """A picture of what one INR of the zoo draws.

    Attributes:
      values: (H, W, 1 or 3) in [0, 1] on a plane; (T, C) along a line.
      axes: which coordinates of a point go across and down; along a line, the only one.
      title: what is shown, where there are several views.
    """

    values: Float[np.ndarray, "*grid C"]
    axes: tuple[int, ...]
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What one INR of the zoo draws: one view of a line or a plane, three of a space.

    Attributes:
      target: of the network, in few characters.
    """

    row: int
    target: str
    views: tuple[View, ...]


def draw(
    zoo: Zoo, rows: Sequence[int], called: Sequence[str], sliced: bool = False
) -> dict[int, Drawing]:
    """What the networks at `rows` draw, by row; empty where the zoo's networks draw nothing.

    On a plane or in space, other numbers of values than 1 and 3 are no colour: their mean is drawn.

    Args:
      called: the target of each network, in few characters.
      sliced: whether a space is shown as its middle slice, not as the mean along each axis.
    """
    shape = zoo.spec.probe_shape
    dims = len(zoo.image_shape or ()) or (shape[0] if len(shape) == 1 else 0)
    if dims not in _SIDES:
        return {}
    usual, most = _SIDES[dims]
    sides = (min(side, most) for side in zoo.image_shape or (usual,) * dims)
    drawn = zoo.spec.render(zoo.read(np.asarray(rows)), *sides)
    if drawn is None:
        return {}
    if dims > 1 and drawn.shape[-1] not in (1, 3):
        drawn = drawn.mean(axis=-1, keepdims=True)
    if sliced and dims == 3:
        drawn = drawn[:, drawn.shape[1] // 2]
    return {
        row: Drawing(row, name, _views(values, zoo.spec.plane))
        for row, name, values in zip(rows, called, drawn, strict=True)
    }


def _views(values: Float[np.ndarray, "*grid C"], plane: str | None) -> tuple[View, ...]:
    """One network as it is on a line or a plane; of a space, its mean along each axis."""
    if values.ndim == 2:
        return (View(values, (0,)),)
    if values.ndim == 3:
        return (View(values, (1, 0) if plane == "ij" else (0, 1)),)
    views = []
    for axis in range(3):
        down, across = (other for other in range(3) if other != axis)
        mean = values.mean(axis=axis)
        mean = (mean - mean.min()) / max(float(np.ptp(mean)), float(np.finfo(np.float32).tiny))
        views.append(View(mean, (across, down), f"mean along coordinate {axis}"))
    return tuple(views)
