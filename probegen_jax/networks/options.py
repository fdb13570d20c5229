"""How networks are run, and how files of single networks are read."""

import dataclasses
from typing import Literal

from probegen_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options:
    """How networks run, never what they compute.

    Attributes:
      block_size: how many run side by side; None leaves it to the family.
      sine: how sines are computed: "fast", "exact", or "auto": exact where fast would not do.
      compute_dtype: what convolutions multiply in, "float32" or "bfloat16".
      platform: of the devices, as jax calls it: "cpu", "gpu", "tpu".
    """

    block_size: int | None = None
    sine: Literal["auto", "fast", "exact"] = "auto"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    platform: str = "cpu"


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How files of single networks are read.

    Attributes:
      layer_key: name of each layer's arrays before `.weight` and `.bias`; `{}` stands for the
        layer's number, from 0.
      last_layer_key: of the last layer, where it differs, with or without a number. NFN's INRs have
        "net.{}.linear" and "net.{}", siren-pytorch's "net.{}" and "last_layer".
      scale_key: of the second linear layer beside each hidden one, in fields of Gabor wavelets.
      projection_key: of the matrix (F, D) of random Fourier features.
      cos_first: whether the cosines of random Fourier features lie before their sines.
      state_key: of the network to read, where a file holds several, such as an average of it.
      fidelity: "faithful" runs CNNs as they were trained, "official" as ProbeGen's published code.
    """

    layer_key: str = "seq.{}"
    last_layer_key: str | None = None
    fidelity: Literal["faithful", "official"] = "faithful"
    state_key: str | None = None
    scale_key: str = "scale.{}"
    projection_key: str = "B"
    cos_first: bool = False

    def __post_init__(self):
        numbered = (self.layer_key, self.scale_key)
        for pattern, least in ((numbered[0], 1), (numbered[1], 1), (self.last_layer_key or "", 0)):
            numbers, rest = pattern.count("{}"), pattern.replace("{}", "")
            if not least <= numbers <= 1 or "{" in rest or "}" in rest:
                raise UserError(
                    f"layer key {pattern!r} must hold one {{}} for the layer's number, as in "
                    "seq.{}; only that of the last layer can do without"
                )

    def layer_name(self, index: int, depth: int) -> str:
        """The prefix of the names of the arrays of layer `index` of `depth`."""
        last = self.last_layer_key if index == depth - 1 else None
        return (last or self.layer_key).format(index)
