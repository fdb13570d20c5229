"""The versions and devices of a run, which are stored with its figures."""

import platform
from importlib import metadata
from typing import Any

import jax

import probegen_jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment() -> dict[str, Any]:
    """Versions of Python, of this package and of those it computes with, and the devices."""
    device = jax.devices()[0]
    versions = {name: metadata.version(name) for name in _PACKAGES}
    return {
        "probegen_jax": probegen_jax.__version__,
        "python": platform.python_version(),
        **versions,
        "device": f"{jax.device_count()} × {device.device_kind} ({device.platform})",
    }
