"""Several processes as one job: how they find, check, and watch each other.

Processes talk through the key-value store of jax's coordination service, which process 0 runs.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src.distributed import global_state  # where orbax and flax find the service's client, too
from jax.experimental import multihost_utils
from jaxtyping import Int

from probegen_jax import errors
from probegen_jax.errors import UserError

T = TypeVar("T")

# A process that gives no sign of life for so many looks of another is taken for dead. Looks are
# counted and not seconds, so that nobody is blamed when it is the one who looks that was suspended.
_PERIOD, _LIMIT = 1.0, 25
# Seconds; jax's own heartbeat, which ends a process without a clear message, comes second.
_JAX_LIMIT = 100
_FOR_EVER = 7 * 24 * 3600 * 1000  # ms; whoever waits so long is ended by the watch


class AgreedError(UserError):
    """A mistake that all processes know of and raise together."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where a process finds its job; None is for jax to find out.

    Attributes:
      coordinator: address and port where process 0 listens.
      num_processes: of the job.
      process_id: of this one.
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
      coordinator: address:port of process 0, if given by hand.
      num_processes: likewise.
      process_id: likewise.
      environment: of the process.

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


@contextlib.contextmanager
def job(cluster: Cluster | None, timeout: float = 120.0) -> Iterator[None]:
    """Joins the job before anything touches a device, and leaves it in order.

    If this process fails alone, the others are told, and end too; likewise this one if another
    fails or dies.

    Args:
      cluster: as `find_cluster` says; None does nothing.
      timeout: seconds to wait for the other processes at the start.

    Raises:
      UserError: no connection within that time.
    """
    if cluster is None:
        yield
        return
    _connect(cluster, timeout)
    watch = _Watch()
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


def _client() -> Any:
    return global_state.client


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
        _client().key_value_set(key, json.dumps(outcome))
    outcome = json.loads(_client().blocking_key_value_get(key, _FOR_EVER))
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

    Args:
      name: of this call, different for each.
      facts: what JSON can hold, by name.

    Raises:
      AgreedError: some process differs; which, and in what.
    """
    if jax.process_count() == 1:
        return
    mine = {"host": socket.gethostname(), "facts": dict(facts)}
    _client().key_value_set(f"probegen/{name}/{jax.process_index()}", json.dumps(mine))

    def compare() -> None:
        for other in range(1, jax.process_count()):
            key = f"probegen/{name}/{other}"
            theirs = json.loads(_client().blocking_key_value_get(key, _FOR_EVER))
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
    package = pathlib.Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"probegen_jax's source": digest.hexdigest()[:16], **versions}


def most(counts: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
    """The greatest of each count over all processes."""
    if jax.process_count() == 1:
        return counts
    return np.asarray(multihost_utils.process_allgather(counts)).max(axis=0)


class _Watch:
    """Gives signs of life, and ends this process when another is dead or has failed."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The job ends in order."""
        self._stopped.set()
        self._thread.join()

    def leave(self, error: BaseException) -> None:
        """Ends this process, which failed alone, and tells the others why. Does not return."""
        if isinstance(error, jax.errors.JaxRuntimeError):
            # Most likely an exchange with a process that is dead: then the watch will find out.
            self._thread.join(_PERIOD * _LIMIT + 5)
        self._stopped.set()
        code = errors.report(error)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        me = jax.process_index()
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the coordinator may be the dead one
            _client().key_value_set(f"probegen/ended/{me}", reason, allow_overwrite=True)
            if me == 0:
                _client().key_value_set(
                    "probegen/over", _of(me, f"has failed: {reason}"), allow_overwrite=True
                )
                time.sleep(3 * _PERIOD)  # until the others have read it: the service ends with us
        _exit(code)

    def _run(self) -> None:
        me, count = jax.process_index(), jax.process_count()
        seen: dict[int, tuple[str, int]] = {}
        beat = 0
        while not self._stopped.wait(_PERIOD):
            beat += 1
            try:
                _client().key_value_set(f"probegen/alive/{me}", str(beat), allow_overwrite=True)
                over = dict(_client().key_value_dir_get("probegen/over")) or self._verdict(
                    seen, range(1, count) if me == 0 else [0]
                )
            except jax.errors.JaxRuntimeError:
                if self._stopped.is_set():
                    return
                over = {"": _of(0, "is gone: the coordination service does not answer")}
            if over and not self._stopped.is_set():
                message = next(iter(over.values()))
                if me == 0:
                    with contextlib.suppress(jax.errors.JaxRuntimeError):
                        _client().key_value_set("probegen/over", message, allow_overwrite=True)
                        time.sleep(3 * _PERIOD)
                print(
                    f"error: {message}; start the job again with the same command, and it goes on "
                    "from the last checkpoint",
                    file=sys.__stderr__,
                )
                _exit(errors.EXIT_PEER_ENDED)

    def _verdict(self, seen: dict[int, tuple[str, int]], others: Any) -> dict[str, str]:
        """Who has failed or died, if anyone."""
        ended = dict(_client().key_value_dir_get("probegen/ended/"))
        for key, reason in ended.items():
            return {key: _of(int(key.rpartition("/")[2]), f"has failed: {reason}")}
        beats = dict(_client().key_value_dir_get("probegen/alive/"))
        for other in others:
            beat = beats.get(f"probegen/alive/{other}", "")
            before, looks = seen.get(other, (None, 0))
            seen[other] = (beat, looks + 1 if beat == before else 0)
            if seen[other][1] >= _LIMIT:
                seconds = _LIMIT * _PERIOD
                return {"": _of(other, f"has given no sign of life for {seconds:.0f} s")}
        return {}


def _of(process: int, what: str) -> str:
    return f"process {process} of {jax.process_count()} {what}"


def _exit(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
