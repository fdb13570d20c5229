"""Arrays that the networks of a zoo share out among them, in place of arrays stacked by network."""

import dataclasses

import numpy as np
from jaxtyping import Int

Counts = Int[np.ndarray, " k"]


@dataclasses.dataclass(frozen=True)
class SharedRows:
    """What the networks of a zoo take of arrays that are not stacked by network.

    Attributes:
      counts_NxK: how many rows of each of K arrays a network takes.
      bytes_K: of one row.
    """

    counts_NxK: Int[np.ndarray, "N K"]
    bytes_K: Int[np.ndarray, " K"]
