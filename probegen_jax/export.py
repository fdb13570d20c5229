"""Makes one movable folder of a trained run, to predict with anywhere or to upload to a model hub.

  python -m probegen_jax.export runs/digits-probegen-128 models/digits
  python -m probegen_jax.export runs/digits-probegen-128 models/digits --at=best

  RUN OUT            the run folder, and the folder to make
  --at=last|best     parameters at the last step, or at the best on validation
  --KEY=DIR          where things lie now, if they have moved since: data_dir, zoo_dir, manual_dir,
                     splits_file, networks_dir, targets_csv
  --debug            shows the stack trace of a mistake

OUT holds model.safetensors (probes, heads and generators of all seeds), config.json (settings and
the networks' architecture) and README.md (a card with the figures). `probegen_jax.load(OUT)` and
`python -m probegen_jax.predict OUT FILES…` need nothing else: neither the run nor its zoo.

Exit codes: 0 done; 2 a mistake in the command, told in one line; 130 interrupted.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from probegen_jax import command, errors
from probegen_jax.errors import UserError

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_FORMAT = "probegen_jax 1"


def main(argv: Sequence[str]) -> None:
    """Exports the run on the command line."""

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_enum("at", "last", ["last", "best"], "parameters", flag_values=values)
        command.define_places(values)

    values, names = command.parse(argv, __doc__, define)
    if len(names) != 2:
        raise UserError("give the run and the folder to make, as in runs/digits models/digits")
    run_folder, out = map(pathlib.Path, names)
    _refuse_existing(out)

    from probegen_jax.runs.experiment import load_run

    places = command.places(values)
    export(load_run(run_folder, places), out, values.at)
    print(f"wrote {out}: {WEIGHTS}, {CONFIG}, {CARD}")


def export(run: Any, out: pathlib.Path, which: str = "last") -> None:
    """Writes a model folder; it is there whole or not at all.

    Args:
      run: as `experiment.load_run` gives it, finished.
      out: of the folder to make.
      which: parameters at the "last" step, or at the "best" on validation.

    Raises:
      UserError: the run is not finished, or the folder is there or cannot be written.
    """
    import jax
    import numpy as np
    from safetensors.numpy import save_file

    from probegen_jax.networks import registry
    from probegen_jax.runs import predictor

    _refuse_existing(out)
    made = predictor.of_run(run, which)
    params = run.params(which)
    tensors = {"probes": made.probes_SxP, **_named(params)}
    # Contiguous copies: safetensors writes the memory as it lies.
    tensors = {name: np.ascontiguousarray(jax.device_get(leaf)) for name, leaf in tensors.items()}
    config = run.experiment.config.to_dict()
    content = {
        "format": _FORMAT,
        "network": registry.to_json(run.experiment.zoo.spec),
        "task": run.experiment.zoo.task,
        "num_outputs": run.experiment.zoo.num_outputs,
        "seeds": made.seeds,
        "parameters": which,
        "settings": config,
        "result": run.result,
    }
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / WEIGHTS, metadata={"format": _FORMAT})
        (temporary / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (temporary / CARD).write_text(card(content, out.name), encoding="utf-8")
        temporary.replace(out)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"cannot write {out} ({error.strerror}); choose another folder") from error


def is_model(folder: pathlib.Path) -> bool:
    """Whether a folder was written by `export`, and not by a training."""
    return (folder / WEIGHTS).is_file()


def load_model(folder: pathlib.Path) -> Any:
    """The `predictor.Predictor` of a folder that `export` wrote.

    Args:
      folder: with `model.safetensors` and `config.json`.

    Raises:
      UserError: a file is missing, damaged, or of another version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from probegen_jax.files import read_json
    from probegen_jax.method.model import head_shape
    from probegen_jax.method.tasks import TASKS
    from probegen_jax.networks import registry
    from probegen_jax.runs.predictor import Predictor, read_options

    content = read_json(folder / CONFIG)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise UserError(
            f"{folder / CONFIG} is not of the format {_FORMAT!r}; export the run again with this "
            "version"
        )
    try:
        tensors = load_file(folder / WEIGHTS)
        settings, spec = content["settings"], registry.from_json(content["network"])
        probes = tensors["probes"]
        head = _tree({name: leaf for name, leaf in tensors.items() if name.startswith("head.")})
        shape = head_shape(spec, settings, content["num_outputs"])
        inputs = head["head"]["layers"][0]["kernel"].shape[1]
        if probes.shape[2:] != spec.probe_shape or inputs != shape[0]:
            raise ValueError(f"{CONFIG} and {WEIGHTS} are of different networks")
        return Predictor(
            spec=spec,
            reading=read_options(settings),
            classes=TASKS[content["task"]].classes,
            seeds=content["seeds"],
            probes_SxP=probes,
            head_params=head["head"],
            head_shape=head_shape(spec, settings, content["num_outputs"]),
            batch_size=settings["batch_size"],
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: not a whole model ({type(error).__name__}: {error}); export the run again"
        ) from error


def card(content: Mapping[str, Any], name: str) -> str:
    """The model card: what it is, its figures, how to use it.

    Args:
      content: of `config.json`.
      name: of the model.
    """
    from probegen_jax.method.tasks import TASKS

    result, settings = content["result"], content["settings"]
    task = TASKS[content["task"]]
    goal = task.goal.format(num_outputs=content["num_outputs"])
    which = content["parameters"]
    rows = "\n".join(
        f"| {seed['seed']} | {seed[which]['step']} | {seed[which]['val']:.4f} | "
        f"{seed[which]['test']:.4f} |"
        for seed in result["seeds"]
    )
    return f"""---
library_name: probegen_jax
tags: [weight-space-learning, probing, probegen, jax]
metrics: [{task.metric_name}]
---

# {name}

Probes and heads that predict {goal}, trained on {result["train_networks"]:,} networks of
`{result["dataset"]}` ({settings["method"]}, {settings["num_probes"]} probes,
{len(content["seeds"])} seed(s), parameters at the {which} step).

| seed | step | validation {task.metric_title} | test {task.metric_title} |
|---|---|---|---|
{rows}

```python
import probegen_jax

predictions = probegen_jax.load("{name}").predict(["network.pth"])
print(predictions.to_csv())
```

The predictions of several seeds are averaged. The method is by Kahana, Horwitz, Shuval and Hoshen:
*Deep Linear Probe Generators for Weight Space Learning*, ICLR 2025, arXiv:2410.10811.
"""


def _refuse_existing(out: pathlib.Path) -> None:
    if out.exists():
        raise UserError(f"{out} is there already; choose a folder that is not")


def _named(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dicts by their keys, joined by dots."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _named(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _tree(named: Mapping[str, Any]) -> dict[Any, Any]:
    """The inverse of `_named`; keys of digits are numbers."""
    tree: dict[Any, Any] = {}
    for name, leaf in named.items():
        *path, last = [int(key) if key.isdigit() else key for key in name.split(".")]
        place = tree
        for key in path:
            place = place.setdefault(key, {})
        place[last] = leaf
    return tree


if __name__ == "__main__":
    errors.run(main)
