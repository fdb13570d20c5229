"""One training in a run's folder, from its config to `result.json`."""

import dataclasses
import functools
import pathlib
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import probegen_jax
from probegen_jax import settings
from probegen_jax.errors import UserError
from probegen_jax.files import write_json
from probegen_jax.method.generators import registry
from probegen_jax.method.readouts.registry import name_in, readout
from probegen_jax.method.tasks import TASKS
from probegen_jax.runs import checks, records, warm_start
from probegen_jax.runs import experiment as experiments
from probegen_jax.runs import folder as folders
from probegen_jax.runs.experiment import Experiment, Run
from probegen_jax.runs.folder import computed, refuse_other, refuse_other_zoo
from probegen_jax.runs.learners import weight_values
from probegen_jax.runs.zoo_facts import facts
from probegen_jax.training import tuning
from probegen_jax.training.checkpoints import Checkpoints, folder_of
from probegen_jax.training.fitting import Fitting
from probegen_jax.training.job import processes
from probegen_jax.training.job.interrupt import Interrupt
from probegen_jax.training.loop import Training
from probegen_jax.training.mesh import DATA, fetch, make_mesh, platform_of
from probegen_jax.training.records import MetricsLog, Progress, TensorBoard
from probegen_jax.zoo.zoo import Zoo


def look_at(
    folder: pathlib.Path, config: ConfigDict, zoo: Zoo | None = None
) -> dict[str, Any] | None:
    """Looks at a run's folder, and makes sure that a finished run is one on this config's zoo.

    Returns:
      The result of a finished run; None for a new or unfinished one.

    Raises:
      UserError: see `folder.look_at`; or a run on another zoo.
    """
    result, known = folders.look_at(folder, config.to_dict()), records.read_zoo(folder)
    if result is not None and known:
        found = facts(experiments.zoo_of(config, zoo), config)
        refuse_other_zoo(folder, known, found)
    return result


def train_run(
    config: ConfigDict,
    folder: pathlib.Path,
    interrupt: Interrupt,
    devices: Sequence[jax.Device] | None = None,
    zoo: Zoo | None = None,
    result: dict[str, Any] | None = None,
) -> Run:
    """Trains what `config` says, or goes on with it; writes everything but the report.

    Args:
      result: of a run that was finished before, which stays.

    Raises:
      UserError: the config or the zoo is not usable.
      Stopped: asked to stop; what was done is saved.
    """
    groups = settings.nested(config, "mesh.seeds", 1)
    mesh = make_mesh(config.batch_size, config.num_seeds, groups, devices)
    zoo = processes.in_turn("zoo", lambda: experiments.zoo_of(config, zoo))
    notes = checks.check_zoo(zoo, config, mesh)
    experiment = processes.in_turn(
        "experiment", lambda: experiments.set_up(config, zoo, platform_of(mesh))
    )
    checks.check_memory(experiment, mesh)
    if jax.process_index() == 0:
        print(*(f"note: {note}\n" for note in notes), sep="", end="")
    zoo = experiment.zoo
    zoo_facts = experiment.zoo_facts
    processes.agree("zoo", zoo_facts)
    refuse_other_zoo(folder, records.read_zoo(folder), zoo_facts)
    keep = settings.nested(config, "keep_checkpoints", 2)
    checkpoints = Checkpoints(folder_of(folder, config.get("checkpoint_dir")), keep)
    block_size = None
    trained = registry.entry(config.method, zoo.spec.probe_shape).trained
    if trained and config.get("block_size") is None:
        share = config.batch_size // mesh.shape[DATA]
        block_size = processes.from_first(
            "block_size",
            lambda: tuning.block_size_of_run(
                folder,
                zoo,
                share,
                config.num_probes,
                experiment.total_steps,
                checkpoints.known_facts(),
            ),
        )
        experiment = experiments.with_block_size(experiment, block_size)
    identity = {"config": computed(config.to_dict()), "zoo": zoo_facts, "block_size": block_size}
    training = _training_class(experiment)(
        experiment.learnt_zoo,
        experiment.learner,
        mesh,
        experiment.schedule,
        experiment.keys,
        batch_size=config.batch_size,
        mode=settings.nested(config, "data.mode", "auto"),
        metric_name=experiment.metric_name,
        score=experiment.scores,
        checkpoints=checkpoints,
        identity=identity,
    )
    resumed = training.resume(lambda theirs: _refuse_other(folder, theirs, config, identity))
    if not resumed and config.get("init_from"):
        init_from = pathlib.Path(config.init_from)
        params, line = warm_start.warm(fetch(mesh, training.params), init_from)
        training.start_from(params)
        if jax.process_index() == 0:
            print(line)
    _announce(experiment, folder, training.done if resumed else None)
    log = _open_log(config, folder, zoo_facts, training) if jax.process_index() == 0 else None
    training.run(
        log, Progress(experiment.total_steps, training.done, experiment.metric_name), interrupt
    )
    return _finished(experiment, folder, training, result)


def _training_class(experiment: Experiment) -> Callable[..., Training]:
    """What trains: steps, or, of readouts that are fitted at once, one."""
    config, zoo = experiment.config, experiment.zoo
    kind = readout(name_in(config), zoo.spec)
    if not kind.fitted:
        return Training

    def fit() -> dict[str, Any]:
        rows = zoo.splits["train"]
        values = weight_values(experiment.learner, config, zoo, rows)
        return kind.fit(values, experiment.learnt_zoo.targets_N[rows], zoo.num_outputs)

    return functools.partial(Fitting, fit=fit, loss=TASKS[zoo.task].loss)


def summary(result: dict[str, Any]) -> str:
    """A result in one line, for the terminal."""
    best = [seed["best"]["test"] for seed in result["seeds"]]
    beside = [seed["last"].get("test_accuracy") for seed in result["seeds"]]
    accuracy = "" if None in beside else f" (accuracy {sum(beside) / len(beside):.4f})"
    by_image = [seed["last"].get("test_by_image") for seed in result["seeds"]]
    if None not in by_image:
        accuracy += f" ({sum(by_image) / len(by_image):.4f} by image)"
    together = ""
    if "ensemble" in result:
        together = f", and {result['ensemble']['last']['test']:.4f} by their mean prediction"
    return (
        f"test {result['metric']} {result['mean']:.4f} ± {result['std']:.4f}{accuracy} at the last "
        f"step, {sum(best) / len(best):.4f} at the best on validation, over {len(best)} seed(s)"
        f"{together}; "
        f"{result['seconds']:.0f} s of training, {result['steps_per_second']:.0f} steps/s"
    )


def _environment() -> dict[str, Any]:
    """Versions of Python, of this package and of those it computes with, and the devices."""
    device = jax.devices()[0]
    return {
        "probegen_jax": probegen_jax.__version__,
        "python": platform.python_version(),
        **processes.versions(),
        "device": f"{jax.device_count()} × {device.device_kind} ({device.platform})",
    }


def _announce(experiment: Experiment, folder: pathlib.Path, step: int | None) -> None:
    config, zoo = experiment.config, experiment.zoo
    if step is not None:
        print(f"resuming {folder} at step {step} of {experiment.total_steps}")
        return
    print(
        f"training {registry.label(config.method, config.num_probes)} on {zoo.name}: "
        f"{len(zoo.splits['train'])} networks, {experiment.total_steps} steps, "
        f"{len(experiment.seeds)} seed(s), in {folder}"
    )


def _refuse_other(
    folder: pathlib.Path, theirs: Mapping[str, Any], config: ConfigDict, ours: Mapping[str, Any]
) -> None:
    """Refuses a checkpoint of other settings, or of another zoo."""
    if "config" not in theirs:
        raise UserError(
            f"the checkpoint in {folder} is of an earlier version of this program; start again in "
            "another folder with --workdir=DIR"
        )
    refuse_other(folder, theirs["config"], config.to_dict())
    refuse_other_zoo(folder, theirs.get("zoo", {}), ours["zoo"])
    if theirs.get("block_size", ours["block_size"]) != ours["block_size"]:
        raise UserError(
            f"{folder / 'tuning.json'} says block_size {ours['block_size']}, but the run began "
            f"with {theirs['block_size']}; delete that file, and it goes on as it began"
        )


def _open_log(
    config: ConfigDict, folder: pathlib.Path, zoo_facts: dict[str, Any], training: Training
) -> MetricsLog:
    write_json(folder / records.ZOO, zoo_facts)
    write_json(folder / records.CONFIG, folders.with_absolute_places(config.to_dict()))
    board = None
    if config.get("tensorboard"):
        lost = training.done and not any((folder / folders.BOARD).glob("events.*"))
        board = TensorBoard(folder / folders.BOARD, training.done)
        board.text("config", f"```\n{config}```")
        for record in training.records if lost else []:
            board.scalars(record)
    return MetricsLog(folder / records.METRICS, training.records, board)


def _finished(
    experiment: Experiment,
    folder: pathlib.Path,
    training: Training,
    result: dict[str, Any] | None,
) -> Run:
    """The run at its end, with its result; the test networks are looked at where there is none."""
    if result is None:
        result = _result(experiment, training)
        if jax.process_index() == 0:
            write_json(folder / records.RESULT, result)
        print(f"{folder}: {summary(result)}")
    # Copies that this process has to itself, so that it can go on alone.
    state, best_params = fetch(training.mesh, (training.state, training.best_params))
    state, best_params = jax.tree.map(jnp.asarray, (state, best_params))
    steps = experiment.total_steps
    best = training.best["step"]
    return Run(folder, experiment, steps, state, best_params, best, training.records, result)


def _result(experiment: Experiment, training: Training) -> dict[str, Any]:
    """The content of `result.json`."""
    zoo, seeds = experiment.zoo, experiment.seeds
    steps, seconds = experiment.total_steps, training.seconds

    def outputs(params_S: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Those of the networks, and those of their views."""
        plain = {split: training.outputs(split, params_S) for split in ("val", "test")}
        if not experiment.has_views:
            return plain, {}
        state = dataclasses.replace(training.state, params=params_S)
        state = jax.tree.map(jnp.asarray, fetch(training.mesh, state))  # to go on alone
        return plain, {split: experiment.views(state, zoo.splits[split]) for split in plain}

    found = {"last": outputs(training.params), "best": outputs(training.best_params)}
    last = experiment.entries([steps] * len(seeds), *found["last"])
    at_best = experiment.entries(training.best["step"], *found["best"])
    together = {which: experiment.ensemble(*each) for which, each in found.items()}
    return records.sign(
        records.totals(zoo.name, experiment.config, experiment.metric_name, last)
        | ({"ensemble": together} if len(seeds) > 1 else {})
        | {
            "seeds": [
                {"seed": seed, "last": last[i], "best": at_best[i]} for i, seed in enumerate(seeds)
            ],
            "train_networks": len(zoo.splits["train"]),
            "steps": steps,
            "seconds": seconds,
            "steps_per_second": steps / seconds if seconds else 0.0,
            "environment": _environment(),
        }
    )
