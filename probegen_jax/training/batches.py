"""Batches: from a zoo that lies on the devices, or one that is streamed to them."""

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key

from probegen_jax.training import memory
from probegen_jax.training.batch_order import Layout
from probegen_jax.training.job import processes
from probegen_jax.training.mesh import DATA
from probegen_jax.training.resident import Batches, Resident, load, place_targets
from probegen_jax.training.streaming import Streamed
from probegen_jax.zoo.zoo import Networks


def make_batches(
    zoo: Networks, layout: Layout, mesh: Mesh, keys_S: Key[Array, " S"], mode: str = "auto"
) -> Batches:
    """The batches of a zoo, from the devices if it fits.

    Args:
      mode: "resident", "stream", or "auto".
    """
    shared = zoo.shared_rows()
    if shared is None:
        one = zoo.read(np.zeros(1, np.int64))
        network_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(one))
    else:
        network_bytes = int(np.mean(shared.counts_NxK @ shared.bytes_K))
    if mode == "auto":
        share = network_bytes * layout.rows_BxM.size // mesh.shape[DATA]
        mode = "resident" if share <= _room(mesh) else "stream"
        if mesh.is_multi_process:
            mode = processes.from_first("data.mode", lambda: mode)
    if mode == "stream":
        return Streamed(zoo, layout, mesh, keys_S, network_bytes)
    weights = load(zoo, layout, mesh)
    return Resident(layout, weights, place_targets(zoo, layout, mesh), keys_S)


def _room(mesh: Mesh) -> int:
    """Bytes of a device that networks may take: half of what it has, the rest is for the steps."""
    return memory.of_device(mesh) // 2
