"""What can be known of a training before it starts: targets without order, sizes that cannot be."""

import math

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from probegen_jax import settings
from probegen_jax.errors import UserError
from probegen_jax.method.model import head_sizes
from probegen_jax.method.readouts.registry import name_in, readout
from probegen_jax.method.tasks import TASKS, Scale
from probegen_jax.runs.experiment import Experiment
from probegen_jax.runs.zoo_from_config import OWN
from probegen_jax.training.evaluation import answers_once
from probegen_jax.training.memory import bytes_of, refuse_too_much
from probegen_jax.training.mesh import DATA, SEEDS
from probegen_jax.zoo import misread
from probegen_jax.zoo.zoo import SPLITS, Zoo

_MOST_STEPS = 2**31 - 1  # they are counted in int32
_SPREADS = (1e-30, 1e30)  # of values that are standardized: what float32 can tell apart
_MOST_NAMED = 5


def check_zoo(zoo: Zoo, config: ConfigDict, mesh: Mesh) -> list[str]:
    """Whether a zoo's targets and its number of networks can be trained on.

    Returns:
      What is worth a line, though the training can go on.

    Raises:
      UserError: what is wrong, and what to do.
    """
    train = len(zoo.splits["train"])
    steps = config.num_epochs * -(-train // config.batch_size)
    if steps > _MOST_STEPS:
        raise UserError(
            f"num_epochs is {config.num_epochs:,}, which makes {steps:,} steps; give less with "
            f"--config.num_epochs=N, for at most {_MOST_STEPS:,} steps"
        )
    probe_values = config.num_probes * math.prod(zoo.spec.probe_shape)
    refuse_too_much(
        {
            f"num_probes ({config.num_probes:,})": 4 * probe_values,
            f"batch_size ({config.batch_size:,})": 12 * config.batch_size,
        },
        mesh,
    )
    task = TASKS[zoo.task]
    if config.get("label_smoothing") and (task.several or not task.classes):
        raise UserError(
            f"label_smoothing is {config.label_smoothing}, but {zoo.name} is no zoo of networks "
            "that each have one class; use --config.label_smoothing=0"
        )
    if config.get("rank_loss") and task.classes:
        raise UserError(
            f"rank_loss is {config.rank_loss}, but {zoo.name} is a zoo of classes, which have no "
            "order; use --config.rank_loss=0"
        )
    if task.several:
        notes = _check_several_classes(zoo)
    else:
        notes = _check_classes(zoo) if task.classes else _check_values(zoo, config)
    if config.batch_size > train:
        notes.append(
            f"batch_size is {config.batch_size}, but there are {train} networks to train on: "
            "every step shows all of them"
        )
    if config.dataset == OWN:
        notes += [f"{zoo.name} may be misread: {line}" for line in misread.doubts(zoo)]
    return notes


def check_memory(experiment: Experiment, mesh: Mesh) -> None:
    """Refuses a training whose parameters and responses cannot fit, by what they need at least.

    Raises:
      UserError: what needs how much.
    """
    config, zoo = experiment.config, experiment.zoo
    key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    state = jax.eval_shape(experiment.learner.init, key)
    seeds = -(-config.num_seeds // mesh.shape[SEEDS])
    trained, moments = bytes_of(state.params), bytes_of(state.opt_state)
    # The state before a step and after it, and the best parameters on validation.
    of_seed = 2 * (trained + moments) + trained + bytes_of(state.fixed)
    devices = mesh.shape[DATA]
    fixed = answers_once(experiment.learner, state)
    # Responses of a batch and their gradient; or, of fixed probes, of all networks once.
    networks = len(zoo) / devices if fixed else 2 * config.batch_size / devices
    at_once = seeds if fixed or experiment.learner.seeds_side_by_side else 1
    sizes = head_sizes(config.to_dict(), zoo.num_outputs)
    values = readout(name_in(config), zoo.spec).num_values(
        zoo.spec, sizes
    )  # that are read of a network
    responses = 4 * at_once * int(networks) * values
    count = trained // 4
    who = f"num_seeds ({config.num_seeds:,}) × {count:,} parameters (head_width, num_probes, …)"
    asked = "all networks" if fixed else f"batch_size ({config.batch_size:,})"
    refuse_too_much(
        {
            who: seeds * of_seed,
            f"{values:,} values of {asked}, by num_probes ({config.num_probes:,})": responses,
        },
        mesh,
    )


def _check_classes(zoo: Zoo) -> list[str]:
    """Classes to be told apart must be there for training."""
    counts = {
        split: np.bincount(zoo.targets_N[zoo.splits[split]], minlength=zoo.num_outputs)
        for split in SPLITS
    }
    present = np.flatnonzero(counts["train"])
    if len(present) < 2:
        raise UserError(
            f"{zoo.name}: all {counts['train'].sum()} training networks are of the class "
            f"{zoo.called[int(present[0])]!r}, so that there is nothing to tell apart; put "
            "networks of other classes into the split 'train'"
        )
    later = counts["val"] + counts["test"]
    unseen = np.flatnonzero((counts["train"] == 0) & (later > 0))
    if not len(unseen):
        return []
    return [
        f"{zoo.name}: no training network is of the class {_named(zoo, unseen)}: the "
        f"{later[unseen].sum()} networks of it in val and test will all be predicted wrongly"
    ]


def _check_several_classes(zoo: Zoo) -> list[str]:
    """Some classes must be there in every split, and in training not with all networks."""
    notes = []
    for split in SPLITS:
        has_NxC = zoo.targets_N[zoo.splits[split]] != 0
        counts_C = has_NxC.sum(axis=0)
        if not counts_C.any():
            raise UserError(
                f"{zoo.name}: no network of the split {split!r} has any class; put networks with "
                "classes into it"
            )
        if split == "train" and np.all((counts_C == 0) | (counts_C == len(has_NxC))):
            raise UserError(
                f"{zoo.name}: all {len(has_NxC)} training networks have the same classes, so that "
                "there is nothing to tell apart; put networks with others into the split 'train'"
            )
        if len(absent := np.flatnonzero(counts_C == 0)):
            left_out = "it cannot be learnt" if split == "train" else "the mean leaves it out"
            notes.append(
                f"{zoo.name}: no network of the split {split!r} has the class "
                f"{_named(zoo, absent)}; {left_out}"
            )
    return notes


def _named(zoo: Zoo, classes: np.ndarray) -> str:
    """What some classes are called, as many as a line takes."""
    names = ", ".join(repr(zoo.called[int(n)]) for n in classes[:_MOST_NAMED])
    more = f" and {len(classes) - _MOST_NAMED} more" if len(classes) > _MOST_NAMED else ""
    return names + more


def _check_values(zoo: Zoo, config: ConfigDict) -> list[str]:
    """Values to be put in order must differ, in every split."""
    for split in SPLITS:
        targets_N = zoo.targets_N[zoo.splits[split]]
        if np.all(targets_N == targets_N[0]):
            raise UserError(
                f"{zoo.name}: the split {split!r} has {len(targets_N)} network(s), all with the "
                f"target {targets_N[0]:g}, and where no targets differ there is no order to "
                "predict (Kendall's τ); put networks with other targets into it"
            )
    if settings.standardizes(config):
        std = Scale.of(zoo.targets_N[zoo.splits["train"]]).std
        least, most = _SPREADS
        if not least < std < most:
            raise UserError(
                f"{zoo.name}: the training targets' standard deviation is {std:.3g}, which float32 "
                f"cannot work with; write them in another unit, for {least:g} to {most:g}"
            )
    return []
