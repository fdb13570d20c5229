"""Trains a probe generator and its head on a zoo.

  python -m probegen_jax.train --config=configs/digits.py
  python -m probegen_jax.train --config=configs/digits.py:vanilla,64 --config.num_seeds=5
  python -m probegen_jax.train --config=configs/digits.py --workdir=runs/mine

  --config=FILE[:METHOD][,PROBES]  settings; METHOD is probegen, vanilla, uniform or
                                   dead_leaves
  --config.KEY=VALUE               changes one setting
  --workdir=DIR                    the run folder; runs/CONFIG-METHOD-PROBES if not given

Exit codes: 0 done, or done before; 2 a mistake in the command, told in one line; 130 interrupted.

How a run resumes (the same command on the same folder):
1. A folder with `result.json` is finished: it is shown, nothing is done.
2. A folder with another config is refused; one without checkpoints starts at step 0.
3. A checkpoint holds everything that training changes: parameters, optimiser, step, the best on
   validation so far. The order of the networks follows from (seed, epoch) alone.
4. Boundaries between stretches of steps lie at fixed steps, and at each the order is: evaluate,
   log, save, go on. So a resumed run makes the same calls with the same values, bit for bit.
"""

import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from probegen_jax import errors, settings


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = settings.parse(
        argv,
        __doc__,
        lambda v: flags.DEFINE_string("workdir", None, "run folder", flag_values=v),
    )
    config = values.config
    name = f"{settings.config_name(argv)}-{config.method}-{config.num_probes}"
    train(config, values.workdir or f"runs/{name}")


def train(config: Any, workdir: str) -> dict[str, Any]:
    """Trains what `config` says in the folder `workdir`, or goes on with it.

    Args:
      config: an ml_collections ConfigDict that `settings.check` accepts.
      workdir: run folder.

    Returns:
      The content of `result.json`.

    Raises:
      errors.UserError: the config, the data or the folder is not usable.
    """
    # Imports are here so that a mistake on the command line is told at once.
    import dataclasses
    import pathlib

    import jax
    import jax.numpy as jnp
    import numpy as np

    from probegen_jax import experiment as experiments
    from probegen_jax import step
    from probegen_jax.checkpoint import Checkpoints
    from probegen_jax.environment import environment
    from probegen_jax.report import write as report
    from probegen_jax.run_folder import open_run
    from probegen_jax.writers import MetricsLog, Progress, TensorBoard, write_json

    # ---------------------------------------------------------------- folder
    folder = pathlib.Path(workdir)
    finished = open_run(folder, config.to_dict())
    if finished is not None:
        print(f"{folder} is finished: {_summary(finished)}")
        return finished

    # ---------------------------------------------------------------- zoo, model and step
    experiment = experiments.set_up(config)
    zoo, learner, seeds = experiment.zoo, experiment.learner, experiment.seeds
    metric_name = experiment.metric_name
    weights = jax.device_put(zoo.weights)
    targets_N = jax.device_put(zoo.targets_N)
    train_rows = jnp.asarray(zoo.splits["train"], jnp.int32)
    batch_size = config.batch_size
    steps_per_epoch, total_steps = experiment.steps_per_epoch, experiment.total_steps
    init_keys_S, order_keys_S = experiment.keys

    @jax.jit
    def rows_of_epoch(epoch):
        return jax.vmap(step.epoch_rows, in_axes=(0, None, None, None))(
            order_keys_S, epoch, train_rows, batch_size
        )

    state = jax.jit(learner.init)(init_keys_S)
    if step.probes_are_fixed(state):
        # Every network answers once, for good; from here on, the responses stand for the networks.
        rows_TxB = step.in_batches(np.arange(len(zoo)), batch_size)
        respond = jax.jit(lambda *args: step.responses(learner, *args))
        weights = respond(state, weights, rows_TxB)
        learner = dataclasses.replace(learner, from_responses=True)

    run_steps = jax.jit(lambda *args: step.train_steps(learner, *args))
    keep_better = jax.jit(step.choose_per_seed)
    run_predict = jax.jit(lambda *args: step.predict(learner, *args))

    def outputs_of(split: str, params_S, fixed_S) -> jax.Array:
        rows = zoo.splits[split]
        rows_TxB = step.in_batches(rows, batch_size)
        return run_predict(params_S, fixed_S, weights, rows_TxB)[:, : len(rows)]

    def entries(at, params_S) -> list[dict[str, Any]]:
        """Of every seed: the step, validation and test."""
        splits = ("val", "test")
        outputs = {split: outputs_of(split, params_S, state.fixed) for split in splits}
        return experiment.entries(at, outputs)

    # ---------------------------------------------------------------- start or resume
    best_params = state.params
    best = {"step": [0] * len(seeds), "val": [-1e9] * len(seeds)}
    seconds_before = 0.0
    checkpoints = Checkpoints(folder / "checkpoints")
    done = checkpoints.latest_step() or 0
    if done:
        arrays, facts = checkpoints.restore(done, {"state": state, "best_params": best_params})
        state, best_params = arrays["state"], arrays["best_params"]
        best, seconds_before = facts["best"], facts["seconds"]
        print(f"resuming {folder} at step {done} of {total_steps}")
    else:
        print(
            f"training {config.method}-{config.num_probes} on {zoo.name}: {len(train_rows)} "
            f"networks, {total_steps} steps, {len(seeds)} seed(s), in {folder}"
        )
    write_json(folder / "config.json", config.to_dict())
    board = TensorBoard(folder / "tensorboard", done) if config.get("tensorboard") else None
    if board is not None:
        board.text("config", f"```\n{config}```")
    log = MetricsLog(folder / "metrics.jsonl", done, board)
    bar = Progress(total_steps, done, metric_name)

    # ---------------------------------------------------------------- loop
    def finish(pending) -> None:
        """Fetches what was computed for a boundary, logs it, keeps the best."""
        nonlocal best_params
        record, losses_SxT, span, params_S, val_outputs = pending
        record["train_loss"] = np.asarray(losses_SxT)[:, span].mean(axis=1).tolist()
        if val_outputs is not None:
            record[f"val_{metric_name}"] = val = experiment.scores("val", val_outputs)
            better = [new > old for new, old in zip(val, best["val"], strict=True)]
            best_params = keep_better(jnp.asarray(better), params_S, best_params)
            best["val"] = np.where(better, val, best["val"]).tolist()
            best["step"] = np.where(better, record["step"], best["step"]).tolist()
        if not all(np.isfinite(record["train_loss"])):
            raise errors.UserError(
                f"the training loss is {record['train_loss']} at step {record['step']}; try a "
                f"lower learning rate than {config.learning_rate}, or look for extreme weights in "
                "the zoo"
            )
        log.write(record)
        bar.show(record)

    started = time.monotonic()
    pending = None
    rows_epoch = -1
    while done < total_steps:
        epoch, at = divmod(done, steps_per_epoch)
        if epoch != rows_epoch:
            rows_SxTxB, rows_epoch = rows_of_epoch(jnp.int32(epoch)), epoch
        stop = min(
            (epoch + 1) * steps_per_epoch,
            done - done % config.eval_every + config.eval_every,
            done - done % config.checkpoint_every + config.checkpoint_every,
        )
        span = slice(at, at + stop - done)
        state, losses_SxT = run_steps(
            state, weights, targets_N, rows_SxTxB, jnp.int32(span.start), jnp.int32(span.stop)
        )
        done = stop
        evaluate = done % config.eval_every == 0 or done == total_steps
        val_outputs = outputs_of("val", state.params, state.fixed) if evaluate else None
        # The stretch before is fetched only now, with this one already under way.
        if pending is not None:
            finish(pending)
        record = {"step": done, "epoch": epoch + 1}
        pending = (record, losses_SxT, span, state.params, val_outputs)
        if done % config.checkpoint_every == 0 or done == total_steps:
            finish(pending)
            pending = None
            seconds = seconds_before + time.monotonic() - started
            arrays = {"state": state, "best_params": best_params}
            checkpoints.save(done, arrays, {"best": best, "seconds": seconds})
    seconds = seconds_before + time.monotonic() - started
    bar.close()
    log.close()
    checkpoints.close()

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
        "train_networks": len(train_rows),
        "steps": total_steps,
        "seconds": seconds,
        "steps_per_second": total_steps / seconds if seconds else 0.0,
        "environment": environment(),
    }
    write_json(folder / "result.json", result)
    print(f"{folder}: {_summary(result)}")
    if config.get("report", True):
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
