"""Published test figures to set beside ours.

From Kahana et al., ICLR 2025 (arXiv:2410.10811), as later work quotes its tables. They are for the
settings of the published code, so with `fidelity=official` where a zoo has two.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Figure:
    """One published figure: accuracy in [0, 1], or Kendall's τ.

    It is not `verified` where it was quoted once only.
    """

    value: float
    source: str = "Kahana et al., ICLR 2025"
    verified: bool = True


# By zoo, method and number of probes.
FIGURES = {
    ("mnist_inr", "probegen", 128): Figure(0.984),
    ("fmnist_inr", "probegen", 128): Figure(0.877),
    ("cifar10_gs", "probegen", 128): Figure(0.957, verified=False),
    ("cifar10_wild_park", "probegen", 128): Figure(0.933),
}


def of(config: Mapping[str, Any]) -> Figure | None:
    """The published figure for a run's settings; None if there is none for what it computes."""
    if config.get("fidelity", "official") != "official":
        return None
    return FIGURES.get((config["dataset"], config["method"], config["num_probes"]))
