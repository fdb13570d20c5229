"""Networks of a zoo that cannot be used: how they are told, and how they are left out."""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from probegen_jax.errors import UserError

REMEDY = "replace the file, or leave such networks out with --config.skip_bad=True"


class BadNetworkError(UserError):
    """One network that cannot be used; with `skip_bad` the others still make a zoo."""

    def __init__(self, network: str, fault: str, remedy: str = REMEDY):
        super().__init__(f"{network}: {fault}; {remedy}")
        self.network = network
        self.fault = fault


def check_finite(network: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises a `BadNetworkError` that names the first array with a NaN or an infinity."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise BadNetworkError(network, f"{name} holds NaN or infinite weights")


@dataclasses.dataclass
class Skipped:
    """The networks left out of a zoo so far.

    Attributes:
      allowed: whether leaving out is what the user asked for.
      faults: what is wrong, by network.
    """

    allowed: bool
    faults: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, error: BadNetworkError) -> None:
        """Notes a bad network, or raises `error` where none may be left out."""
        if not self.allowed:
            raise error
        self.faults[error.network] = error.fault

    def write(self, path: pathlib.Path) -> None:
        """Lists the networks left out, one a line: name, tab, fault."""
        lines = [f"{name}\t{fault}\n" for name, fault in self.faults.items()]
        path.write_text("".join(lines), encoding="utf-8")
