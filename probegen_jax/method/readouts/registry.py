"""The readouts by name. A new one is a class derived from `base.Readout` and a line here.

A command line is checked against `READOUTS` before jax is imported: classes are named here, and
imported when they are used.
"""

import pkgutil
from typing import Any

from probegen_jax.method.generators.registry import METHODS

READOUTS = {
    "outputs": f"{__package__}.outputs:Head",
    "hidden": f"{__package__}.hidden:Hidden",
}
# Those that belong to a method which does not probe, see `generators.registry.Method.readout`.
OF_METHODS = {
    "flat": f"{__package__}.weights:Flat",
    "statnn_mlp": f"{__package__}.weights:Statistics",
    "statnn_trees": f"{__package__}.trees:StatisticsTrees",
}

DEFAULT = "outputs"


def name_in(config: Any) -> str:
    """The readout of a config, or of a dict of it: its method's own, or what `readout` says."""
    method = METHODS.get(config.get("method"))
    if method is not None and method.readout is not None:
        return method.readout.format_map(dict(config))
    return config.get("readout", DEFAULT)


def is_known(name: str) -> bool:
    """Whether there is a readout of that name."""
    return name in READOUTS | OF_METHODS


def readout(name: str, spec: Any) -> Any:
    """The class of a readout of such networks; see `base.Readout`."""
    return pkgutil.resolve_name((READOUTS | OF_METHODS)[name]).for_networks(spec)
