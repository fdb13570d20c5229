"""How much memory a device has, and whether a training can fit there at all."""

import os
import pathlib
from collections.abc import Mapping

import jax
from jax.sharding import Mesh

from probegen_jax.errors import UserError

# What a container may use, where the system says so (cgroups of version 2, then 1).
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def of_device(mesh: Mesh) -> int:
    """Bytes of one of this process's devices; of a CPU, its share of the machine's."""
    stats = mesh.local_devices[0].memory_stats()
    if stats is not None:
        return int(stats["bytes_limit"])
    return _of_machine() // len(mesh.local_devices)


def _of_machine() -> int:
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(pathlib.Path, _LIMITS):
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(limit for limit in limits if limit > 0)


def refuse_too_much(needed: Mapping[str, int], mesh: Mesh) -> None:
    """Raises a `UserError` if a device cannot hold what is needed at least.

    Args:
      needed: bytes on a device, by what they are for.
    """
    total, there = sum(needed.values()), of_device(mesh)
    if total <= there:
        return
    most = max(needed, key=lambda what: needed[what])
    raise UserError(
        f"this training needs at least {_shown(total)} on {_named(mesh)}, which has "
        f"{_shown(there)}; most of it, {_shown(needed[most])}, is for {most}: lower those"
    )


def _named(mesh: Mesh) -> str:
    device = mesh.local_devices[0]
    count = len(mesh.local_devices)
    if device.platform != "cpu":
        return device.device_kind
    return "this machine" if count == 1 else f"each of the {count} devices of this machine"


def _shown(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"


def bytes_of(tree: object) -> int:
    """Of all arrays of a tree, which may be abstract."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
