"""Files of the official PyTorch code: checkpoints, logs; and probes that follow from a seed."""

import csv
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.method import dead_leaves_files
from probegen_jax.method.generators import registry
from probegen_jax.method.learning import TrainState
from probegen_jax.official import parameters
from probegen_jax.runs.experiment import Experiment
from probegen_jax.user_cache import data_folder
from probegen_jax.zoo.files import torch_files

# Columns of `log.csv`; the metric's are empty in rows of the other task.
_COLUMNS = (
    "exp_name, epoch, global_step, train_loss, val_loss, test_loss, val_acc, test_acc, "
    "val_kendalltau, test_kendalltau"
)
_METRIC_COLUMNS = {"accuracy": "acc", "kendall_tau": "kendalltau"}


def load_checkpoint(path: pathlib.Path, experiment: Experiment, config_file: str) -> dict[str, Any]:
    """One seed's parameters from an official checkpoint, for the model of an experiment.

    Raises:
      UserError: another method, sizes or kind of data set: what differs, with both shapes.
    """
    state = torch_files.load_state_dict(path)
    try:
        theirs = parameters.sizes(state)
    except UserError as error:
        raise UserError(f"{path}: {error}; give a checkpoint of the official code") from error
    expected = _zeros(experiment)
    differing = parameters.differences(state, {name: a.shape for name, a in expected.items()})
    if differing:
        ours = parameters.sizes(expected)
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise UserError(
            f"{path} holds {theirs}, but the config asks for {ours}: "
            f"{'; '.join(differing[:4])}{more}; {_remedy(theirs, ours, experiment, config_file)}"
        )
    return parameters.from_official(state)


def stacked(params: Sequence[Any], probes: Sequence[np.ndarray]) -> TrainState:
    """Parameters of several checkpoints as seeds of one state, to be run and not trained.

    `probes` holds those of each in our layout, if they are no part of the checkpoints.
    """
    together = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *params)
    fixed = {"generator": {"probes": jnp.stack([jnp.asarray(x) for x in probes])}} if probes else {}
    return TrainState(together, fixed, None, None)


def seeded_probes(experiment: Experiment, seed: int) -> np.ndarray:
    """The probes of uniform or dead_leaves that the official code draws with `--seed`.

    Raises:
      UserError: dead leaves that are not the published images.
    """
    config, shape = experiment.config, experiment.zoo.spec.probe_shape
    if config.method == "uniform":
        return 2 * torch_files.uniform(seed, (config.num_probes, *shape)) - 1
    if config.dead_leaves == "generated":
        raise UserError(
            "the official code takes its probes from the published dead leaves; add "
            "--config.dead_leaves=published, or the path of their zip or folder"
        )
    leaves = dead_leaves_files.find(config.dead_leaves, data_folder(config.data_dir))
    fidelity, pixels = config.get("fidelity", "faithful"), experiment.zoo.spec.pixels
    if pixels is None:
        raise UserError("nothing says how the images of these networks were normalised")
    return dead_leaves_files.read(
        leaves, config.num_probes, shape, seed, pixels, fidelity, official_choice=True
    )


def load_probes(path: pathlib.Path, experiment: Experiment) -> np.ndarray:
    """Fixed probes from a torch file with the tensor `input`, as `compare --export` writes it.

    Raises:
      UserError: no such tensor, or probes of another shape.
    """
    state = torch_files.load_state_dict(path)
    if list(state) != ["input"]:
        raise UserError(f"{path} holds {', '.join(state)}; it should hold one tensor named 'input'")
    probes = parameters.from_official_probes(state["input"])
    expected = (experiment.config.num_probes, *experiment.zoo.spec.probe_shape)
    if probes.shape != expected:
        official = parameters.to_official_probes(np.zeros(expected)).shape
        raise UserError(f"{path}: the probes are {state['input'].shape}, expected {official}")
    return probes


def read_log(path: pathlib.Path, metric_name: str) -> dict[str, dict[str, int | float]]:
    """What matters of the `log.csv` of an official run.

    Args:
      metric_name: "accuracy" or "kendall_tau", as the config's zoo has it.

    Returns:
      The "last" row and the "best" on validation: "step", "val" and "test" of each. A row is made
      after `step` + 1 updates: the official code counts from 0.

    Raises:
      UserError: other columns, figures of the other task, or no rows.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} ({error}); give the log.csv of a run") from error
    suffix = _METRIC_COLUMNS[metric_name]
    needed = ("global_step", f"val_{suffix}", f"test_{suffix}")
    missing = [name for name in needed if name not in columns]
    if missing:
        raise UserError(
            f"{path}: its columns are {', '.join(columns) or 'none'}; missing "
            f"{', '.join(missing)}. A log of the official code has {_COLUMNS}"
        )
    if not rows:
        raise UserError(f"{path} has no rows; the official code writes one every 500 steps")
    log_rows = []
    for line, row in enumerate(rows, 2):
        try:
            step, val, test = (float(row[name]) for name in needed)
            log_rows.append({"step": int(step), "val": val, "test": test})
        except (TypeError, ValueError) as error:
            shown = ", ".join(f"{name}={row[name]!r}" for name in needed)
            raise UserError(
                f"{path}, line {line}: {shown}; expected numbers. They are empty in the log of "
                "another kind of data set"
            ) from error
    return {"last": log_rows[-1], "best": max(log_rows, key=lambda row: row["val"])}


def _zeros(experiment: Experiment) -> dict[str, np.ndarray]:
    """A state dict of zeros, of the experiment's shapes."""
    abstract = jax.eval_shape(experiment.learner.init, experiment.keys[0])
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), abstract.params)
    return parameters.to_official(zeros)


def _remedy(
    theirs: parameters.Sizes, ours: parameters.Sizes, experiment: Experiment, config_file: str
) -> str:
    """What to do about a checkpoint that does not fit."""
    spec = experiment.zoo.spec
    num_probes, remainder = divmod(theirs.num_responses, spec.response_dim)
    channels = spec.probe_shape[-1]
    per_probe = theirs.num_responses // (theirs.num_probes or num_probes or 1)
    strange = [
        f"{what} {stored}, here {asked}"
        for what, stored, asked in (
            ("outputs", theirs.num_outputs, ours.num_outputs),
            ("values or channels of a probe", theirs.probe_dims or channels, channels),
            ("responses per probe", per_probe, spec.response_dim),
        )
        if stored != asked
    ]
    if strange or remainder:
        return f"it is for another kind of data set ({'; '.join(strange)}): choose its config"
    method = theirs.method or parameters.FIXED[registry.kind_of(spec.probe_shape)]
    changes = [
        f" --config.{key}={getattr(theirs, key)}"
        for key in ("latent_dim", "generator_depth", "generator_width", "head_width", "head_depth")
        if getattr(theirs, key) not in (None, experiment.config[key])
    ]
    return f"use --config={config_file}:{method},{num_probes}{''.join(changes)}"
