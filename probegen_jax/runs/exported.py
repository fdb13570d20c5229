"""Models that can be moved: what `export` writes of a run, and how they are loaded again."""

import importlib.resources
import json
import os
import pathlib
import string
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from probegen_jax import trees
from probegen_jax.errors import UserError
from probegen_jax.files import UNREADABLE, read_json, replacing, write_json, write_text
from probegen_jax.method.model import head_sizes
from probegen_jax.method.readouts.base import Sizes
from probegen_jax.method.readouts.registry import is_known, name_in, readout
from probegen_jax.method.tasks import TASKS
from probegen_jax.networks import registry
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.runs.experiment import Run, load_run
from probegen_jax.runs.folder import computed
from probegen_jax.runs.predictor import Predictor, predictor_of
from probegen_jax.runs.zoo_from_config import read_options
from probegen_jax.typed_json import is_as_signed, signed, typed
from probegen_jax.zoo.zoo import Zoo

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_FORMAT = "probegen_jax 1"
_MOST_AT_ONCE = 1024  # networks, whatever a model says
_MOST_NAMED = 20  # classes that the card lists by name
_SIZES = ("num_probes", "head_width", "head_depth", "batch_size")  # of the settings
_FACTS = {"seeds": tuple[int, ...], "num_outputs": int, "class_names": tuple[str, ...] | None}


def load(
    path: str | os.PathLike[str],
    *,
    which: str = "last",
    places: Mapping[str, str] | None = None,
    zoo: Zoo | None = None,
) -> Predictor:
    """The predictor of a run folder, or of a model that `probegen_jax.export` wrote.

    Args:
      which: of a run's parameters, the "last" or the "best" on validation.
      places: of a run: where its zoo lies now, if it has moved, as `{"data_dir": "..."}`.
      zoo: of a run: what it was trained on, where that was a zoo in memory.
    """
    folder = pathlib.Path(path)
    if is_model(folder):
        return load_model(folder)
    return predictor_of(load_run(folder, places, zoo=zoo), which)


def export(run: Run, out: pathlib.Path, which: str = "last") -> tuple[str, ...]:
    """Writes a model folder; it is there whole or not at all.

    `which` are parameters at the "last" step, or at the "best" on validation. A `UserError` if the
    run is not finished, or the folder is there or cannot be written.
    """
    refuse_existing(out)
    made, zoo = predictor_of(run, which), run.experiment.zoo
    tensors = {"probes": made.probes_SxP, **trees.named(run.params(which))}
    # Contiguous copies: safetensors writes the memory as it lies.
    tensors = {name: np.ascontiguousarray(jax.device_get(leaf)) for name, leaf in tensors.items()}
    content = {
        "format": _FORMAT,
        "network": registry.to_json(zoo.spec),
        "task": zoo.task,
        "num_outputs": zoo.num_outputs,
        "class_names": made.class_names,
        "seeds": made.seeds,
        "parameters": which,
        "settings": computed(run.experiment.config.to_dict()),  # without paths of this machine
        "result": run.result,
    }
    content = json.loads(json.dumps(content))  # as it is read again
    try:
        with replacing(out) as temporary:
            temporary.mkdir(parents=True)
            weights = save_safetensors(tensors, metadata={"format": _FORMAT})
            (temporary / WEIGHTS).write_bytes(weights)
            write_json(temporary / CONFIG, signed(content, weights))
            write_text(temporary / CARD, card(content, out.name))
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}); choose another folder") from error
    return WEIGHTS, CONFIG, CARD


def is_model(folder: pathlib.Path) -> bool:
    """Whether a folder was written by `export`, and not by a training."""
    return (folder / WEIGHTS).is_file()


def load_model(folder: pathlib.Path) -> Predictor:
    """The predictor of a folder that `export` wrote; a `UserError` if it is damaged."""
    where = folder / CONFIG
    content = read_json(where)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        told = f"{where} is not of the format {_FORMAT!r}"
        raise UserError(f"{told}; export the run again with this version")
    try:
        weights = (folder / WEIGHTS).read_bytes()
        tensors = load_safetensors(weights)
        settings, spec = content["settings"], registry.from_json(content["network"])
        said = {name: typed(int, settings[name], f"{where}: {name}") for name in _SIZES}
        for name, hint in _FACTS.items():
            said[name] = typed(hint, content.get(name), f"{where}: {name}")
        seeds, names, outputs = len(said["seeds"]), said["class_names"], said["num_outputs"]
        if names is not None and len(names) != outputs:
            raise ValueError(f"{len(names)} names of {outputs} classes")
        if not isinstance(content["result"], dict):
            raise ValueError("the result is no table of figures")
        head, sizes = name_in(settings), head_sizes(settings, outputs)
        if not is_known(head):
            raise ValueError(f"readout {head!r} is unknown")
        named = {name: leaf for name, leaf in tensors.items() if name.startswith("head.")}
        if not 0 < sizes.depth <= len(named):  # before so many layers are made
            raise ValueError(f"{CONFIG} and {WEIGHTS} are of different networks")
        # What config.json announces must be there, however much it is.
        expected = _head_arrays(head, spec, seeds, sizes)
        expected["probes"] = (seeds, said["num_probes"], *spec.probe_shape)
        for name in expected | named:
            if tensors[name].shape != expected[name] or tensors[name].dtype != np.float32:
                raise ValueError(f"{CONFIG} and {WEIGHTS} are of different networks")
        if not is_as_signed(content, weights):
            raise ValueError(f"{CONFIG} or {WEIGHTS} was changed after the export")
        return Predictor(
            spec=spec,
            reading=read_options(settings),
            task=TASKS[content["task"]],
            seeds=list(said["seeds"]),
            probes_SxP=tensors["probes"],
            head_params=trees.nested(named)["head"],
            readout=head,
            head_sizes=sizes,
            batch_size=max(1, min(said["batch_size"], _MOST_AT_ONCE)),
            result=content["result"],
            class_names=names,
        )
    except (SafetensorError, *UNREADABLE) as error:
        raise UserError(
            f"{folder}: not a whole model ({type(error).__name__}: {error}); export the run again"
        ) from error


def _head_arrays(
    name: str, spec: NetworkSpec, seeds: int, sizes: Sizes
) -> dict[str, tuple[int, ...]]:
    """Name and shape of each array of the head; nothing of that size is made."""
    head = nnx.eval_shape(lambda: readout(name, spec).make(spec, sizes, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(head, nnx.Param))
    return {key: (seeds, *leaf.shape) for key, leaf in trees.named({"head": params}).items()}


def card(content: Mapping[str, Any], name: str) -> str:
    """The model card: what it is, its figures, how to use it."""
    result, settings = content["result"], content["settings"]
    task = TASKS[content["task"]]
    goal = task.goal.format(num_outputs=content["num_outputs"])
    names = content.get("class_names") or ()
    if 0 < len(names) <= _MOST_NAMED:
        goal += f" ({', '.join(names)})"
    which = content["parameters"]
    rows = "\n".join(
        "| {seed} | {step} | {val:.4f} | {test:.4f} |".format(seed=seed["seed"], **seed[which])
        for seed in result["seeds"]
    )
    if "ensemble" in result:
        figures = result["ensemble"][which]
        rows += f"\n| mean prediction | | {figures['val']:.4f} | {figures['test']:.4f} |"
    template = importlib.resources.files(__package__).joinpath("model_card.md")
    return string.Template(template.read_text(encoding="utf-8")).substitute(
        name=name,
        goal=goal,
        networks=f"{result['train_networks']:,}",
        zoo=result["dataset"],
        method=settings["method"],
        probes=settings["num_probes"],
        seeds=len(content["seeds"]),
        which=which,
        metric=task.metric_name,
        title=task.metric_title,
        rows=rows,
    )


def refuse_existing(out: pathlib.Path) -> None:
    """Raises a `UserError` if there is something at `out`."""
    if out.exists():
        raise UserError(f"{out} is there already; choose a folder that is not")
