"""Trains a probe generator and its head on a zoo.

  python -m probegen_jax.train --config=configs/digits.py
  python -m probegen_jax.train --config=configs/digits.py:vanilla,64 --config.num_seeds=5
  python -m probegen_jax.train --config=configs/digits.py --workdir=runs/mine

  --config=FILE[:METHOD][,PROBES]  settings; METHOD is probegen, vanilla, uniform or
                                   dead_leaves
  --config.KEY=VALUE               changes one setting
  --workdir=DIR                    the run folder; runs/CONFIG-METHOD-PROBES if not given
  --distributed=auto|on|off        whether this is one of several processes; auto: if Slurm, Open
                                   MPI or a TPU pod says so, or the flags below do
  --coordinator=HOST:PORT --num_processes=N --process_id=I
                                   the job by hand; process 0 listens at HOST:PORT
  --connect_timeout=SECONDS        to wait for the other processes; 120 if not given

Exit codes: 0 done, or done before; 2 a mistake in the command, told in one line; 75 asked to stop
by SIGTERM, everything saved; 76 another process of the job has failed or died; 130 interrupted by
Ctrl-C. After 75 and 76 the same command goes on; more in docs/cluster.md.

How a run resumes (the same command on the same folder, on any number of devices):
1. A folder with `result.json` is finished: it is shown, nothing is done.
2. A folder with another config is refused; one without checkpoints starts at step 0.
3. A checkpoint holds everything that training changes: parameters, optimiser, step, the best on
   validation so far, losses not yet averaged, and the metrics so far, so that it is enough to go on
   where all else is lost. The order of the networks follows from (seed, epoch) alone; see
   `training.batch_order`.
4. Boundaries between stretches of steps lie at fixed steps, and at each the order is: evaluate,
   log, save, go on. Between boundaries a stretch may be cut anywhere, as SIGTERM does. So a resumed
   run makes the same steps with the same values, bit for bit.
"""

import os
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from probegen_jax import errors, settings


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = settings.parse(argv, __doc__, _define)
    name = f"{settings.config_name(argv)}-{values.config.method}-{values.config.num_probes}"
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


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "run folder", flag_values=values)
    flags.DEFINE_string("distributed", "auto", "auto, on or off", flag_values=values)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "of the job", flag_values=values)
    flags.DEFINE_integer("process_id", None, "of this one", flag_values=values)
    flags.DEFINE_float("connect_timeout", 120.0, "seconds", flag_values=values)


def train(
    config: Any,
    workdir: str,
    devices: Sequence[Any] | None = None,
    interrupt: Any = None,
) -> dict[str, Any]:
    """Trains what `config` says in the folder `workdir`, or goes on with it.

    Args:
      config: an ml_collections ConfigDict that `settings.check` accepts.
      workdir: run folder.
      devices: to use instead of all.
      interrupt: the `Interrupt` that says when to stop; none if not given.

    Returns:
      The content of `result.json`.

    Raises:
      errors.UserError: the config, the data or the folder is not usable.
      errors.Stopped: asked to stop; what was done is saved.
    """
    import pathlib

    from probegen_jax.runs.folder import computed, open_run
    from probegen_jax.training.job import processes
    from probegen_jax.training.job.interrupt import Interrupt
    from probegen_jax.training.job.logs import log_files

    folder = pathlib.Path(workdir)
    processes.agree("command", computed(config.to_dict()) | processes.code_facts())
    finished = processes.from_first("folder", lambda: open_run(folder, config.to_dict()))
    with log_files(folder / "logs"):
        if finished is not None:
            print(f"{folder} is finished: {_summary(finished)}")
            return finished
        return _train(config, folder, devices, interrupt or Interrupt())


def _train(config: Any, folder: Any, devices: Any, interrupt: Any) -> dict[str, Any]:
    """See `train`; the folder is known to be this run's, and not finished."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    import numpy as np

    from probegen_jax.files import write_json
    from probegen_jax.method import learning
    from probegen_jax.report import write as report
    from probegen_jax.runs import experiment as experiments
    from probegen_jax.runs.environment import environment
    from probegen_jax.runs.folder import computed, refuse_other
    from probegen_jax.training import tuning
    from probegen_jax.training.batch_order import lay_out
    from probegen_jax.training.batches import Resident, make_batches, place_targets
    from probegen_jax.training.checkpoints import Checkpoints, folder_of
    from probegen_jax.training.job import processes
    from probegen_jax.training.job.interrupt import Pace
    from probegen_jax.training.mesh import BY_SEED, DATA, fetch, make_mesh, place
    from probegen_jax.training.programs import Programs
    from probegen_jax.training.records import MetricsLog, Progress, TensorBoard

    # ---------------------------------------------------------------- devices, zoo, model and step
    groups = settings.nested(config, "mesh.seeds", 1)
    mesh = make_mesh(config.batch_size, config.num_seeds, groups, devices)
    experiment = processes.in_turn("zoo", lambda: experiments.set_up(config))
    zoo, seeds, metric_name = experiment.zoo, experiment.seeds, experiment.metric_name
    steps_per_epoch, total_steps = experiment.steps_per_epoch, experiment.total_steps
    processes.agree("zoo", experiments.facts(zoo))
    if config.get("block_size") is None and config.method in ("probegen", "vanilla"):
        share = config.batch_size // mesh.shape[DATA]
        block_size = processes.from_first(
            "block_size",
            lambda: tuning.of_run(folder, zoo, share, config.num_probes, total_steps),
        )
        experiment = experiments.with_block_size(experiment, block_size)
    init_keys_S, order_keys_S = experiment.keys
    programs = Programs(experiment.learner, mesh)
    layout = lay_out(zoo.splits, config.batch_size, zoo.costs())
    mode = settings.nested(config, "data.mode", "auto")
    batches = make_batches(zoo, layout, mesh, order_keys_S, mode)
    state = programs.init(init_keys_S)
    if learning.probes_are_fixed(state):
        # Every network answers once, for good; from here on, the responses stand for the networks.
        responses = batches.responses(programs, state)
        batches = Resident(layout, responses, place_targets(zoo, layout, mesh), order_keys_S)
        learner = dataclasses.replace(experiment.learner, from_responses=True)
        programs = Programs(learner, mesh)

    def outputs_of(split: str, params_S) -> Any:
        """On the devices, and perhaps yet to be computed."""
        return batches.outputs(programs, params_S, state.fixed, split)

    def on_host(split: str, outputs) -> np.ndarray:
        """Outputs (S, N, O) in the order of the split."""
        outputs_SxTxBxO = np.concatenate(fetch(mesh, outputs), axis=1)
        outputs_SxNxO = outputs_SxTxBxO.reshape(len(seeds), -1, outputs_SxTxBxO.shape[-1])
        return outputs_SxNxO[:, : len(zoo.splits[split])]

    def entries(at, params_S) -> list[dict[str, Any]]:
        """Of every seed: the step, validation and test."""
        outputs = {split: on_host(split, outputs_of(split, params_S)) for split in ("val", "test")}
        return experiment.entries(at, outputs)

    # ---------------------------------------------------------------- start or resume
    best_params = state.params
    best = {"step": [0] * len(seeds), "val": [-1e9] * len(seeds)}
    seconds_before = 0.0
    losses_SxT = np.zeros((len(seeds), steps_per_epoch), np.float32)
    keep = settings.nested(config, "keep_checkpoints", 2)
    checkpoints = Checkpoints(folder_of(folder, config.get("checkpoint_dir")), keep)
    done = processes.from_first("step", checkpoints.latest_step) or 0
    records: list[dict[str, Any]] = []
    if done:
        arrays, facts = checkpoints.restore(done, {"state": state, "best_params": best_params})
        state, best_params = arrays["state"], arrays["best_params"]
        if "config" not in facts:
            raise errors.UserError(
                f"the checkpoint in {folder} is of an earlier version of this program; start "
                "again in another folder with --workdir=DIR"
            )
        refuse_other(folder, facts["config"], config.to_dict())
        best, seconds_before, records = facts["best"], facts["seconds"], facts["records"]
        at, known = done % steps_per_epoch, len(facts["losses"][0])
        losses_SxT[:, at - known : at] = facts["losses"]
        batches.restore(facts["data"])
        print(f"resuming {folder} at step {done} of {total_steps}")
    else:
        print(
            f"training {config.method}-{config.num_probes} on {zoo.name}: "
            f"{len(zoo.splits['train'])} networks, {total_steps} steps, {len(seeds)} seed(s), "
            f"in {folder}"
        )
    losses_SxT = place(mesh, losses_SxT, BY_SEED)
    first = jax.process_index() == 0  # the only one that writes
    log = None
    if first:
        write_json(folder / "config.json", config.to_dict())
        board = TensorBoard(folder / "tensorboard", done) if config.get("tensorboard") else None
        if board is not None:
            board.text("config", f"```\n{config}```")
        log = MetricsLog(folder / "metrics.jsonl", records, board)
    bar = Progress(total_steps, done, metric_name)

    # ---------------------------------------------------------------- loop
    # Boundaries: the end of an epoch, an evaluation, a checkpoint.
    intervals = (steps_per_epoch, config.eval_every, config.checkpoint_every)

    def since_boundary(step: int) -> slice:
        """Of an epoch's steps, those from the last boundary before `step` up to it."""
        last = (step - 1) % steps_per_epoch
        return slice(last - min((step - 1) % every for every in intervals), last + 1)

    def finish(pending) -> None:
        """Fetches what was computed for a boundary, logs it, keeps the best."""
        nonlocal best_params
        record, losses_SxT, params_S, val_outputs = pending
        losses_SxK = fetch(mesh, losses_SxT)[:, since_boundary(record["step"])]
        record["train_loss"] = losses_SxK.mean(axis=1).tolist()
        if val_outputs is not None:
            val = experiment.scores("val", on_host("val", val_outputs))
            record[f"val_{metric_name}"] = val
            better = [new > old for new, old in zip(val, best["val"], strict=True)]
            better_S = place(mesh, np.asarray(better), BY_SEED)
            best_params = programs.keep_better(better_S, params_S, best_params)
            best["val"] = np.where(better, val, best["val"]).tolist()
            best["step"] = np.where(better, record["step"], best["step"]).tolist()
        if not all(np.isfinite(record["train_loss"])):
            raise errors.UserError(
                f"the training loss is {record['train_loss']} at step {record['step']}; try a "
                f"lower learning rate than {config.learning_rate}, or look for extreme weights in "
                "the zoo"
            )
        if first:
            log.write(record)
        bar.show(record)

    started = time.monotonic()
    pace, pending, stop = Pace(mesh), None, False
    # A step that waited for the host would be an error: what goes to the devices goes on purpose.
    with interrupt.hold(), jax.transfer_guard("disallow"):
        while done < total_steps and not stop:
            epoch, at = divmod(done, steps_per_epoch)
            stretch = batches.stretch(programs, epoch, at)
            boundary = min(done - done % every + every for every in intervals)
            made = min(boundary - done, stretch.stop - at, pace.steps)
            bounds = place(mesh, [np.int32(step) for step in (stretch.first, at, at + made)])
            state, losses_SxT = programs.run_steps(
                state, losses_SxT, stretch.weights, stretch.targets_N, stretch.places_SxKxB, *bounds
            )
            done += made
            evaluate = done % config.eval_every == 0 or done == total_steps
            val_outputs = outputs_of("val", state.params) if evaluate else None
            # The stretch before is fetched only now, with this one already under way.
            if pending is not None:
                finish(pending)
                pending = None
            stop = pace.look(state.step, made, interrupt.asked)
            if done == boundary:
                pending = {"step": done, "epoch": epoch + 1}, losses_SxT, state.params, val_outputs
            if stop or done % config.checkpoint_every == 0 or done == total_steps:
                if pending is not None:
                    finish(pending)
                    pending = None
                told = slice(0, 0) if done == boundary else since_boundary(done)
                facts = {
                    "best": best,
                    "seconds": seconds_before + time.monotonic() - started,
                    "losses": fetch(mesh, losses_SxT)[:, told].tolist(),
                    "data": batches.position,
                    "records": list(log.records) if first else [],
                    "config": computed(config.to_dict()),
                }
                checkpoints.save(done, {"state": state, "best_params": best_params}, facts)
        seconds = seconds_before + time.monotonic() - started
        bar.close()
        if first:
            log.close()
        checkpoints.close()
        batches.close()
    if done < total_steps:
        raise errors.Stopped(agreed=True)

    # ---------------------------------------------------------------- results
    last = entries([total_steps] * len(seeds), state.params)
    at_best = entries(best["step"], best_params)
    test_last = [entry["test"] for entry in last]
    result = {
        "dataset": zoo.name,
        "method": config.method,
        "num_probes": config.num_probes,
        "metric": metric_name,
        "seeds": [
            {"seed": seed, "last": last[i], "best": at_best[i]} for i, seed in enumerate(seeds)
        ],
        "mean": float(np.mean(test_last)),
        "std": float(np.std(test_last, ddof=1)) if len(seeds) > 1 else 0.0,
        "train_networks": len(zoo.splits["train"]),
        "steps": total_steps,
        "seconds": seconds,
        "steps_per_second": total_steps / seconds if seconds else 0.0,
        "environment": environment(),
    }
    if first:
        write_json(folder / "result.json", result)
    print(f"{folder}: {_summary(result)}")
    # Process 0 draws alone, from copies that are its own.
    state, best_params = jax.tree.map(jnp.asarray, fetch(mesh, (state, best_params)))
    if first and config.get("report", True):
        report.after_training(
            experiments.Run(
                folder, experiment, total_steps, state, best_params, best["step"], result
            )
        )
    return result


def _summary(result: dict[str, Any]) -> str:
    """One line for the terminal."""
    best = [seed["best"]["test"] for seed in result["seeds"]]
    return (
        f"test {result['metric']} {result['mean']:.4f} ± {result['std']:.4f} at the last step, "
        f"{sum(best) / len(best):.4f} at the best on validation, over {len(best)} seed(s); "
        f"{result['seconds']:.0f} s of training, {result['steps_per_second']:.0f} steps/s"
    )


if __name__ == "__main__":
    errors.run(main)
