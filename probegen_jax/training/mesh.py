"""The mesh of devices: what is split over it, and how arrays get there and back.

Networks are split over the axis "data", seeds over the axis "seeds"; the rest is on every device.
All of it is done in `shard_map`s: left to itself, XLA would gather the zoo on every device.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from probegen_jax import cpu_devices
from probegen_jax.errors import UserError

SEEDS, DATA = "seeds", "data"
BY_SEED = P(SEEDS)  # arrays whose first axis is S
BY_NETWORK = P(DATA)  # arrays whose first axis is N, or B
BATCHES = P(SEEDS, None, DATA)  # arrays (S, T, B, ...)
EVERYWHERE = P()
_MOST_CPU_DEVICES = 1024  # more than machines have cores


def split_cpu(wanted: int, batch_size: int) -> None:
    """Makes a CPU count as several devices that share a batch, as `cpu_devices.split` does.

    Args:
      wanted: how many; 0 for one per core, as far as they can share a batch evenly.
      batch_size: networks in a batch.

    Raises:
      UserError: fewer than none, or more than any machine has.
    """
    if not 0 <= wanted <= _MOST_CPU_DEVICES:
        raise UserError(
            f"mesh.cpu_devices is {wanted}; give a number, or 0 for one per core, at most "
            f"{_MOST_CPU_DEVICES}"
        )
    if wanted != 1:
        sharing = max(n for n in range(1, cpu_devices.cores() + 1) if batch_size % n == 0)
        cpu_devices.split(wanted or sharing)


def make_mesh(
    batch_size: int,
    num_seeds: int = 1,
    seeds: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh of all devices of all hosts.

    Args:
      batch_size: networks in a batch, to be split over the axis "data".
      seeds: length of that axis.

    Raises:
      UserError: something does not divide.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % seeds:
        raise UserError(f"mesh.seeds is {seeds}, which does not divide the {len(devices)} devices")
    if num_seeds % seeds:
        raise UserError(f"mesh.seeds is {seeds}, which does not divide num_seeds, {num_seeds}")
    data = len(devices) // seeds
    if batch_size % data:
        below = batch_size - batch_size % data
        choices = " or ".join(str(size) for size in (below, below + data) if size)
        raise UserError(
            f"batch_size is {batch_size}, which {data} devices cannot share evenly; choose a "
            f"multiple of {data}, such as --config.batch_size={choices}"
        )
    types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((seeds, data), (SEEDS, DATA), types, devices=tuple(devices))


def platform_of(mesh: Mesh) -> str:
    """What kind of devices a mesh has: "cpu", "gpu" or "tpu", whether they are there or not."""
    return mesh.devices.flat[0].platform


def on_mesh(mesh: Mesh, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Any:
    """Compiles `function` to run on every device, on its parts of arrays.

    Args:
      function: of arrays; what it adds up over devices, it adds up itself.
    """
    return jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    )


def my_parts(mesh: Mesh) -> list[int]:
    """Which parts of what is split over "data" are on this host's devices."""
    mine = {
        place[1]
        for place, device in np.ndenumerate(mesh.devices)
        if device.process_index == jax.process_index()
    }
    return sorted(mine)


def send(
    shape: tuple[int, ...],
    sharding: NamedSharding,
    part: Callable[[tuple[slice, ...]], np.ndarray],
) -> jax.Array:
    """A global array of what `part` says for an index; the one way from the host in training.

    Training forbids transfers that nobody asked for: `jax.transfer_guard`.
    """
    with jax.transfer_guard("allow"):
        return jax.make_array_from_callback(shape, sharding, part)


def join(mesh: Mesh, parts: Mapping[int, Any]) -> Any:
    """Global arrays, split over "data", of the parts that each host has for its own devices.

    Args:
      parts: for each of `my_parts`, arrays with a first axis of the same length.
    """
    axis = mesh.shape[DATA]

    def leaf(*arrays: np.ndarray) -> jax.Array:
        by_part = dict(zip(parts, arrays, strict=True))
        length = arrays[0].shape[0]

        def part(index: tuple[slice, ...]) -> np.ndarray:
            return by_part[(index[0].start or 0) // length]

        shape = (axis * length, *arrays[0].shape[1:])
        return send(shape, NamedSharding(mesh, BY_NETWORK), part)

    return jax.tree.map(leaf, *parts.values())


def place(mesh: Mesh, tree: Any, spec: P = EVERYWHERE) -> Any:
    """Global arrays of arrays that every host has whole, split as `spec` says."""
    sharding = NamedSharding(mesh, spec)

    def leaf(array: Any) -> jax.Array:
        array = np.asarray(array)
        return send(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(leaf, tree)


def fetch(mesh: Mesh, tree: Any) -> Any:
    """NumPy arrays of global ones, whole and on every host; all hosts must call it together."""

    def whole(array: jax.Array) -> bool:
        return array.is_fully_addressable or array.is_fully_replicated

    if not all(whole(leaf) for leaf in jax.tree.leaves(tree)):
        tree = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, EVERYWHERE))(tree)
    return jax.device_get(tree)
