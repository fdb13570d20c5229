"""Which job of several processes this process belongs to, as flags or the environment say."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from probegen_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where a process finds its job; None is for jax to find out.

    Attributes:
      coordinator: address and port where process 0 listens.
      local_device_ids: devices of this host that are this process's.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: tuple[int, ...] | None = None


def find_cluster(
    mode: str,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    environment: Mapping[str, str],
) -> Cluster | None:
    """The job that this process belongs to; None if it is alone.

    Args:
      mode: "off", "on", or "auto": if the environment or the other arguments say so.

    Raises:
      UserError: the job is named by half.
    """
    if mode not in ("auto", "on", "off"):
        raise UserError(f"distributed is {mode!r}; choose auto, on or off")
    if mode == "off":
        return None
    explicit: dict[str, Any] = {
        "coordinator": coordinator or environment.get("JAX_COORDINATOR_ADDRESS"),
        "num_processes": num_processes,
        "process_id": process_id,
    }
    for name in ("num_processes", "process_id"):
        value = environment.get(f"JAX_{name.upper()}")
        if explicit[name] is None and value is not None:
            explicit[name] = _number(f"JAX_{name.upper()}", value)
    given = [name for name, value in explicit.items() if value is not None]
    if given:
        missing = [name for name in explicit if name not in given]
        if missing:
            raise UserError(
                f"a job of several processes needs --coordinator=HOST:PORT, --num_processes=N and "
                f"--process_id=I, or JAX_COORDINATOR_ADDRESS and so on in the environment; "
                f"{', '.join(missing)} missing"
            )
        if not explicit["coordinator"].rpartition(":")[2].isdigit():
            raise UserError(f"coordinator is {explicit['coordinator']!r}; give HOST:PORT")
        if not 0 <= explicit["process_id"] < explicit["num_processes"]:
            raise UserError(
                f"process_id is {explicit['process_id']}, but processes are numbered 0 to "
                f"{explicit['num_processes'] - 1}"
            )
        return Cluster(**explicit)
    if "SLURM_PROCID" in environment and int(environment.get("SLURM_NTASKS", 1)) > 1:
        tasks, nodes = int(environment["SLURM_NTASKS"]), int(environment.get("SLURM_NNODES", 1))
        gpus = int(environment.get("SLURM_GPUS_ON_NODE", 0))
        # jax would give each process one GPU; one process to a node has them all.
        return Cluster(local_device_ids=tuple(range(gpus)) if tasks == nodes and gpus else None)
    mpi = int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
    tpu_pod = "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    return Cluster() if mode == "on" or mpi or tpu_pod else None


def _number(name: str, value: str) -> int:
    if not value.isdigit():
        raise UserError(f"{name} is {value!r} in the environment; it must be a whole number")
    return int(value)
