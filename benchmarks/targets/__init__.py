"""Devices that programs can be compiled for without having them."""

import dataclasses
import importlib.util
import pathlib
import re
from typing import Any

from probegen_jax.errors import UserError

_GB, _GIB = 1e9, 2**30
_HERE = pathlib.Path(__file__).parent
_GPU_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of device, by what its maker says of it.

    Attributes:
      memory: bytes that programs can have.
      flops: a second, in matmuls, at jax's matmul precisions.
      bandwidth: bytes of its memory a second.
      clock: cycles a second; None where the compiler does not estimate cycles.
    """

    memory: float
    flops: dict[str, float]
    bandwidth: float
    clock: float | None = None


def _tpu(memory_gib: float, peak: float, bandwidth: float, clock: float) -> Kind:
    """A TPU, by its peak in bfloat16: `high` is three passes of that, `highest` six."""
    flops = {"default": peak, "high": peak / 3, "highest": peak / 6}
    return Kind(memory_gib * _GIB, flops, bandwidth, clock)


# Clocks are those at which the matrix units reach the peak.
KINDS = {
    "h100": Kind(84.9 * _GB, {"default": 495e12, "high": 165e12, "highest": 67e12}, 3352e9),
    "v4": _tpu(32, 275e12, 1228e9, 1.05e9),
    "v5e": _tpu(15.75, 197e12, 819e9, 1.5e9),
    "v5p": _tpu(95, 459e12, 2765e9, 1.75e9),
    "v6e": _tpu(31.25, 918e12, 1640e9, 1.75e9),
}


def devices(target: str) -> tuple[Kind, list[Any]]:
    """The kind and the devices of a target such as h100, h100:8, v5e:2x2.

    Raises:
      UserError: there is no such target, or the package with its compiler is missing.
    """
    name, _, size = target.partition(":")
    if name not in KINDS:
        raise UserError(f"--target is {target!r}; choose from h100, h100:8, v5e:2x2, v6e:2x2, …")
    on_gpu = name == "h100"
    if not re.fullmatch(r"[1-9]\d*" if on_gpu else r"[1-9]\d*(x[1-9]\d*)+", size or "1"):
        shape = "a number of devices, as in h100:8" if on_gpu else "a shape, as in v5e:2x2"
        raise UserError(f"--target is {target!r}; {name} takes {shape}")
    needed = _GPU_PLUGINS if on_gpu else ("libtpu",)
    if not any(importlib.util.find_spec(module) for module in needed):
        raise UserError(
            f"cannot compile for {name} without its compiler; "
            f"pip install -r requirements-ahead-{'gpu' if on_gpu else 'tpu'}.txt"
        )
    from jax.experimental import topologies

    try:
        if on_gpu:
            described = (_HERE / f"{name}.txtpb").read_text()
            found = topologies.get_topology_desc(
                platform="cuda", target_config=described, topology=f"1x1x{size or 1}"
            )
        else:
            found = topologies.get_topology_desc(topology_name=target, platform="tpu")
    except Exception as error:  # whatever a plugin raises
        first = (str(error).splitlines() or [""])[0]
        raise UserError(f"--target is {target!r}, which cannot be compiled for: {first}") from error
    return KINDS[name], list(found.devices)
