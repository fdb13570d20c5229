"""Files that are whole or not there: written under a temporary name, then renamed."""

import json
import os
import pathlib
from typing import Any

from probegen_jax.errors import UserError


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON to a temporary name, then renames it: the file is whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)


def read_json(path: pathlib.Path) -> Any:
    """Reads a file of `write_json`.

    Raises:
      UserError: it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); it should be JSON") from error
