"""The fields that `build_zoo inr --field=NAME` fits, by name."""

from typing import Any

from probegen_jax.networks.field import FieldSpec
from probegen_jax.networks.points import PointSpec
from probegen_jax.networks.siren import SirenSpec

# Sizes of encodings and factors suit images of some 28 pixels a side.
FIELDS: dict[str, tuple[type[PointSpec], dict[str, Any]]] = {
    "siren": (SirenSpec, {}),
    "posenc": (FieldSpec, {"encoding": "positional", "frequencies": 4}),
    "rff": (FieldSpec, {"encoding": "fourier", "frequencies": 32, "projection_std": 2.0}),
    "gelu": (FieldSpec, {"activation": "gelu", "encoding": "positional", "frequencies": 4}),
    "gaussian": (FieldSpec, {"activation": "gaussian", "width": 0.1}),
    "wire": (FieldSpec, {"activation": "gabor", "w0": 10.0, "width": 5.0}),
}


def spec_of(
    name: str,
    hidden: tuple[int, ...],
    channels: int,
    w0: float | None,
    *,
    dims: int = 2,
    signed: bool = False,
    layout: str | None = None,
) -> PointSpec:
    """The spec of a field of `FIELDS` for images.

    Args:
      w0: factor inside sines; the field's own, if None.
      dims: coordinates of a point.
      signed: whether values are around 0, not in [0, 1].
      layout: "nfn" for networks as Zhou et al. (2023) publish them: the row is the first
        coordinate, and images are drawn in [-1, 1].
    """
    family, values = FIELDS[name]
    given = {"hidden": hidden, "out_dim": channels, "in_dim": dims}
    given |= {"output_shift": 0.0} if signed or layout == "nfn" else {}
    given |= {"grid": "ij"} if layout == "nfn" else {}
    given |= {} if w0 is None else {"w0": w0}
    return family(**(values | given))
