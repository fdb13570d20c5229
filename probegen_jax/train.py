"""Trains a probe generator and its head on a zoo.

  python -m probegen_jax.train --config=configs/digits.py
  python -m probegen_jax.train --config=configs/digits.py:vanilla,64 --config.num_seeds=5
  python -m probegen_jax.train --config=configs/digits.py --workdir=runs/mine

  --config=FILE[:METHOD][,PROBES]  settings; METHOD is probegen, vanilla, uniform,
                                   pixels, dead_leaves, images, flat or
                                   statnn
  --config.KEY=VALUE               changes one setting
  --workdir=DIR                    the run folder; runs/CONFIG-METHOD-PROBES if not given, with the
                                   name of zoo_dir, networks_dir, manual_dir or download_url after
                                   CONFIG where there is one; of small_cnn_zoo.py, CONFIG is the
                                   zoo's name, as svhn_gs
  --distributed=auto|on|off        whether this is one of several processes; auto: if Slurm, Open
                                   MPI or a TPU pod says so, or the flags below do
  --coordinator=HOST:PORT --num_processes=N --process_id=I
                                   the job by hand; process 0 listens at HOST:PORT
  --connect_timeout=SECONDS        to wait for the other processes; 120 if not given

Exit codes: 0 done, or done before; 2 a mistake in the command, told in one line; 75 asked to stop
by SIGTERM, everything saved; 76 another process of the job has failed or died; 130 interrupted by
Ctrl-C. After 75 and 76 the same command goes on; more in docs/cluster.md.
"""

import contextlib
import os
import pathlib
import sys
import types
import urllib.parse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from probegen_jax import errors, settings
from probegen_jax.config_files import config_name
from probegen_jax.method.generators.registry import label

if TYPE_CHECKING:
    from probegen_jax.runs.predictor import Predictor
    from probegen_jax.zoo.zoo import Zoo


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = settings.parse(argv, __doc__, _define)
    zoo = config_name(argv)
    if zoo == "small_cnn_zoo":  # one config for four zoos
        zoo = values.config.dataset
    zoo += _zoo_name(values.config)
    name = f"{zoo}-{label(values.config.method, values.config.num_probes)}"
    # Imports are here so that a mistake on the command line is told at once.
    from probegen_jax.training.allocator import keep_freed_memory
    from probegen_jax.training.job import processes
    from probegen_jax.training.job.cluster import find_cluster
    from probegen_jax.training.job.interrupt import Interrupt
    from probegen_jax.training.mesh import split_cpu

    cluster = find_cluster(
        values.distributed, values.coordinator, values.num_processes, values.process_id, os.environ
    )
    keep_freed_memory()
    # A job's processes are told how many devices they are by who starts them.
    if cluster is None:
        split_cpu(settings.nested(values.config, "mesh.cpu_devices", 1), values.config.batch_size)
    interrupt = Interrupt()
    with interrupt.listen(), processes.job(cluster, values.connect_timeout):
        train(values.config, values.workdir or f"runs/{name}", interrupt=interrupt)


def _zoo_name(config: Any) -> str:
    """What the run folder is called after, besides the config: where a zoo is the user's."""
    for key in ("zoo_dir", "networks_dir", "manual_dir"):
        if given := config.get(key):
            return f"-{os.path.basename(os.path.abspath(given))}"
    file = urllib.parse.urlsplit(config.get("download_url") or "").path.rpartition("/")[2]
    return f"-{file.partition('.')[0]}" if file else ""


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "run folder", flag_values=values)
    flags.DEFINE_string("distributed", "auto", "auto, on or off", flag_values=values)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "of the job", flag_values=values)
    flags.DEFINE_integer("process_id", None, "of this one", flag_values=values)
    flags.DEFINE_float("connect_timeout", 120.0, "seconds", flag_values=values)


def train(
    config: Any,
    workdir: str | os.PathLike[str],
    devices: Sequence[Any] | None = None,
    interrupt: Any = None,
) -> dict[str, Any]:
    """Trains what `config` says in the folder `workdir`, or goes on with it.

    Returns:
      The content of `result.json`.

    Raises:
      errors.UserError: the config, the data or the folder is not usable.
      errors.Stopped: asked to stop; what was done is saved.
    """
    return _train(config, workdir, devices, interrupt)[0]


def train_zoo(
    zoo: "Zoo",
    method: str = "probegen",
    num_probes: int = 128,
    workdir: str | os.PathLike[str] | None = None,
    **changes: Any,
) -> "Predictor":
    """Trains probes and a head on a zoo in memory, or goes on with it, as the command does.

    This is `probegen_jax.train(zoo, …)`.

    Args:
      zoo: any `Zoo`, such as `zoo.own.from_arrays` makes of arrays.
      method: where the probes come from: "probegen", "vanilla", "uniform", "pixels",
        "dead_leaves" or "images"; or "flat" or "statnn", which do not probe.
      num_probes: P; of "pixels" it is `pixels_size`².
      workdir: the run folder; `runs/ZOO-METHOD-PROBES` if None.
      **changes: settings other than the defaults in docs/settings.md, as `num_epochs=100`; keys
        within a key as a dict, `data={"mode": "stream"}`.

    Returns:
      What `probegen_jax.load` returns: `.predict(networks)` predicts, `.result` is the content of
      `result.json`.

    Raises:
      UserError: a setting or the zoo is not usable, or the folder holds another run.
    """
    config = settings.defaults(zoo.name)
    config.in_memory = True
    if zoo.task == "regression":
        config.standardize = settings.placeholder(bool)
    settings.change(config, {"method": method, "num_probes": num_probes, **changes})
    settings.check(config, pathlib.Path("probegen_jax.train"))
    workdir = workdir or f"runs/{zoo.name}-{label(method, config.num_probes)}"
    _, run = _train(config, workdir, zoo=zoo)

    from probegen_jax.runs.exported import load
    from probegen_jax.runs.predictor import predictor_of

    return load(workdir, zoo=zoo) if run is None else predictor_of(run)


def _train(
    config: Any,
    workdir: str | os.PathLike[str],
    devices: Sequence[Any] | None = None,
    interrupt: Any = None,
    zoo: Any = None,
) -> tuple[dict[str, Any], Any]:
    """The result, and the `Run`; None if it was finished before."""
    import jax

    from probegen_jax.report import write as report
    from probegen_jax.runs.folder import computed
    from probegen_jax.runs.training_run import summary, train_run
    from probegen_jax.training.job import processes
    from probegen_jax.training.job.interrupt import Interrupt
    from probegen_jax.training.job.logs import log_files

    folder = pathlib.Path(workdir)
    processes.agree("command", computed(config.to_dict()) | processes.code_facts())
    with contextlib.ExitStack() as lock:
        result, missing = processes.from_first("folder", lambda: _begin(folder, config, zoo, lock))
        with log_files(folder / "logs"):
            if result is not None:
                if not missing:
                    print(f"{folder} is finished: {summary(result)}")
                    return result, None
                print(f"{folder} is finished, but for {', '.join(missing)}: making that")
            run = train_run(config, folder, interrupt or Interrupt(), devices, zoo, result)
            if jax.process_index() == 0 and config.get("report", True):
                report.after_training(run)
            return run.result, run


def _begin(
    folder: pathlib.Path, config: Any, zoo: Any, lock: contextlib.ExitStack
) -> tuple[dict[str, Any] | None, list[str]]:
    """The result of a finished run, and what is missing of it; else `lock` holds the folder."""
    from probegen_jax.runs.folder import held

    found = _look_at(folder, config, zoo)
    if found[0] is None or found[1]:
        lock.enter_context(held(folder, config))
        found = _look_at(folder, config, zoo)  # another process may have been at work
    return found


def _look_at(
    folder: pathlib.Path, config: Any, zoo: Any
) -> tuple[dict[str, Any] | None, list[str]]:
    from probegen_jax.report import write as report
    from probegen_jax.runs import folder as folders
    from probegen_jax.runs.training_run import look_at
    from probegen_jax.training.checkpoints import folder_of

    result = look_at(folder, config, zoo)
    if result is None:
        return None, []
    missing = folders.missing(folder, config, result)
    if config.get("report", True):
        missing += report.missing(folder)
    saved = folder_of(folder, config.get("checkpoint_dir"))
    if missing and not any(saved.glob("[0-9]*")):
        print(
            f"warning: {folder} lacks {', '.join(missing)}, which cannot be made: there is no "
            f"checkpoint in {saved}",
            file=sys.stderr,
        )
        return result, []
    return result, missing


class _Callable(types.ModuleType):
    def __call__(self, *args: Any, **changes: Any) -> Any:
        return train_zoo(*args, **changes)


sys.modules[__name__].__class__ = _Callable


if __name__ == "__main__":
    errors.run(main)
