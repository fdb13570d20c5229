"""The readouts by name. A new one is a class derived from `base.Readout` and a line here.

A command line is checked against `READOUTS` before jax is imported: classes are named here, and
imported when they are used.
"""

import pkgutil
from typing import Any

READOUTS = {
    "outputs": f"{__package__}.outputs:Head",
    "hidden": f"{__package__}.hidden:Hidden",
}

DEFAULT = "outputs"


def name_in(config: Any) -> str:
    """The readout of a config, or of a dict of it; without the key, `DEFAULT`."""
    return config.get("readout", DEFAULT)


def readout(name: str, spec: Any) -> Any:
    """The class of a readout of such networks; see `base.Readout`."""
    return pkgutil.resolve_name(READOUTS[name]).for_networks(spec)
