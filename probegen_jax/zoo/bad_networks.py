"""Networks that cannot be used are left out of a zoo, and listed."""

import dataclasses
import pathlib

from probegen_jax.errors import BadNetworkError
from probegen_jax.files import cell


@dataclasses.dataclass
class Skipped:
    """The networks left out of a zoo so far."""

    allowed: bool
    faults: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, error: BadNetworkError) -> None:
        """Notes a bad network, or raises `error` where none may be left out."""
        if not self.allowed:
            raise error
        self.faults[error.network] = error.fault

    def write(self, path: pathlib.Path) -> None:
        """Lists the networks left out, one a line: name, tab, fault."""
        lines = [f"{cell(name)}\t{cell(fault)}\n" for name, fault in self.faults.items()]
        path.write_text("".join(lines), encoding="utf-8")
