"""Several processes as one job: how they find, check, and watch each other.

Processes talk through the key-value store of jax's coordination service, which process 0 runs.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src.distributed import global_state  # where orbax and flax find the service's client, too
from jax.experimental import multihost_utils
from jaxtyping import Int

from probegen_jax import errors
from probegen_jax.errors import UserError
from probegen_jax.training.job.cluster import Cluster
from probegen_jax.training.job.watch import Watch

T = TypeVar("T")

# Seconds; jax's own heartbeat, which ends a process without a clear message, comes second.
_JAX_LIMIT = 100
_FOR_EVER = 7 * 24 * 3600 * 1000  # ms; whoever waits so long is ended by the watch


class AgreedError(UserError):
    """A mistake that all processes know of and raise together."""


@contextlib.contextmanager
def job(cluster: Cluster | None, timeout: float = 120.0) -> Iterator[None]:
    """Joins the job before anything touches a device, and leaves it in order.

    If this process fails, the others are told and exit too. If another fails or dies, this one
    exits.

    Args:
      cluster: as `cluster.find_cluster` says; None does nothing.

    Raises:
      UserError: no connection within that time.
    """
    if cluster is None:
        yield
        return
    _connect(cluster, timeout)
    watch = Watch()
    try:
        yield
    except (AgreedError, errors.Stopped) as error:
        if isinstance(error, errors.Stopped) and not error.agreed:
            watch.leave(error)
        watch.stop()
        jax.distributed.shutdown()
        raise
    except BaseException as error:
        watch.leave(error)
    watch.stop()
    jax.distributed.shutdown()


def _connect(cluster: Cluster, timeout: float) -> None:
    def give_up() -> None:
        # jax would abort the process, with a C++ stack trace.
        print(f"error: {_not_connected(cluster, timeout)}", file=sys.stderr, flush=True)
        os._exit(errors.EXIT_USER_ERROR)

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from us
    timer = threading.Timer(timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.num_processes,
            cluster.process_id,
            local_device_ids=cluster.local_device_ids,
            initialization_timeout=int(timeout) + 60,
            heartbeat_timeout_seconds=_JAX_LIMIT,
            shutdown_timeout_seconds=20,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"cannot start a job of several processes ({error}); name it with "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I, or run this process alone "
            "with --distributed=off"
        ) from error
    finally:
        timer.cancel()


def _not_connected(cluster: Cluster, timeout: float) -> str:
    where = cluster.coordinator or global_state.coordinator_address or "the coordinator"
    if global_state.process_id == 0 and global_state.service is not None:
        return (
            f"not all of {global_state.num_processes} processes have come to {where} within "
            f"{timeout:.0f} s; look at the logs of the others, or wait longer with "
            "--connect_timeout=SECONDS"
        )
    return (
        f"no connection to the other processes through {where} within {timeout:.0f} s; is process "
        "0 running, and may this host reach that port? Wait longer with --connect_timeout=SECONDS"
    )


def from_first(name: str, function: Callable[[], T]) -> T:
    """What process 0 gets from `function`, on all processes.

    Args:
      name: of this call, different for each.
      function: returns what JSON can hold. Only process 0 calls it.

    Raises:
      AgreedError: `function` raised a UserError.
    """
    if jax.process_count() == 1:
        return function()
    key = f"probegen/from_first/{name}"
    if jax.process_index() == 0:
        try:
            outcome = {"value": function()}
        except UserError as error:
            outcome = {"error": str(error)}
        global_state.client.key_value_set(key, json.dumps(outcome))
    outcome = json.loads(global_state.client.blocking_key_value_get(key, _FOR_EVER))
    if "error" in outcome:
        raise AgreedError(outcome["error"])
    return outcome["value"]


def in_turn(name: str, function: Callable[[], T]) -> T:
    """Calls `function` on process 0, then on the others: they find what it has left on the disk."""
    if jax.process_count() == 1:
        return function()
    results: list[T] = []
    from_first(name, lambda: results.append(function()))
    return results[0] if results else function()


def agree(name: str, facts: Mapping[str, Any]) -> None:
    """Makes sure that all processes have the same facts.

    Raises:
      AgreedError: some process differs; which, and in what.
    """
    if jax.process_count() == 1:
        return
    mine = {"host": socket.gethostname(), "facts": dict(facts)}
    global_state.client.key_value_set(f"probegen/{name}/{jax.process_index()}", json.dumps(mine))

    def compare() -> None:
        for other in range(1, jax.process_count()):
            key = f"probegen/{name}/{other}"
            theirs = json.loads(global_state.client.blocking_key_value_get(key, _FOR_EVER))
            ours = json.loads(json.dumps(mine))["facts"]
            differing = [
                f"{fact} ({theirs['facts'].get(fact)!r} there, {ours.get(fact)!r} in process 0)"
                for fact in sorted(ours.keys() | theirs["facts"].keys())
                if theirs["facts"].get(fact) != ours.get(fact)
            ]
            if differing:
                raise UserError(
                    f"process {other} on {theirs['host']} differs from process 0 on "
                    f"{mine['host']} in {', '.join(differing)}; start all processes with the same "
                    "command, code and packages"
                )

    from_first(f"{name}/verdict", compare)


def code_facts() -> dict[str, str]:
    """What decides what this code computes: hashes of its source, and versions of packages."""
    package = pathlib.Path(__file__).parent.parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return {"probegen_jax's source": digest.hexdigest()[:16], **versions()}


def versions() -> dict[str, str]:
    """Of the packages that this one computes with."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {name: importlib.metadata.version(name) for name in packages}


def most(counts: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
    """The greatest of each count over all processes."""
    if jax.process_count() == 1:
        return counts
    return np.asarray(multihost_utils.process_allgather(counts)).max(axis=0)
