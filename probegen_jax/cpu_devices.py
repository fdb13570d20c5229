"""How many devices a CPU counts as: XLA runs many loops on one core of a device."""

import contextlib
import os

# The environment variable that says how many threads XLA takes of a CPU. XLA reads it without
# documenting it; where it is not read, only speed is lost.
THREADS = "NPROC"


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def split(devices: int) -> None:
    """Makes a CPU count as several devices; to be called before jax looks for devices.

    Nothing but speed depends on it, so where `XLA_FLAGS` say how many devices a CPU is, or jax
    already runs, as in a notebook, it stays as it is.
    """
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # jax already runs
            jax.config.update("jax_num_cpu_devices", devices)
