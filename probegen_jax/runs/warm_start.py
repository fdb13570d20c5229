"""Parameters to start a training from: another run's, where names and shapes agree."""

import pathlib
from typing import Any

import numpy as np

from probegen_jax import trees
from probegen_jax.errors import UserError
from probegen_jax.runs.records import run_config
from probegen_jax.training.checkpoints import Checkpoints, folder_of

_MOST_NAMED = 6  # arrays


def warm(fresh_S: Any, folder: pathlib.Path) -> tuple[Any, str]:
    """Fresh parameters of all seeds, but for what a run's best parameters on validation have.

    Seed after seed takes those of the run's seeds, from the first again where the run has fewer.

    Args:
      fresh_S: as a pure dict; leaves have a leading seed axis.
      folder: of the run.

    Returns:
      The parameters, and a line that says what was taken.

    Raises:
      UserError: no run with a checkpoint is there, or nothing of it fits.
    """
    config = run_config(folder)
    saved = folder_of(folder, config.get("checkpoint_dir"))
    if not any(saved.glob("[0-9]*")):
        raise UserError(f"init_from is {folder}, which has no checkpoint in {saved}; give another")
    checkpoints = Checkpoints(saved)
    theirs = trees.named(checkpoints.arrays(checkpoints.latest_step())["best_params"])
    checkpoints.close()
    params, taken = trees.named(fresh_S), []
    for name, leaf in params.items():
        if name in theirs and theirs[name].shape[1:] == leaf.shape[1:]:
            given = np.asarray(theirs[name])
            params[name] = given[np.arange(len(leaf)) % len(given)]
            taken.append(name)
    if not taken:
        raise UserError(
            f"init_from is {folder}, but none of its parameters has the name and shape of one "
            "here; give a run of such a method and readout, and of as many probes"
        )
    fresh = [name for name in params if name not in taken]
    more = ", …" if len(fresh) > _MOST_NAMED else ""
    told = f"fresh: {', '.join(fresh[:_MOST_NAMED])}{more}" if fresh else "nothing is fresh"
    line = f"starting from {folder}: {len(taken)} of {len(params)} arrays are taken; {told}"
    return trees.nested(params), line
