r"""Compares runs of the official PyTorch code with ours, and writes ours as its checkpoints.

  python -m probegen_jax.compare --config=configs/mnist.py --torch_checkpoint=epoch_last.pth
  python -m probegen_jax.compare --config=configs/mnist.py:64 --workdir=runs/mine \
      --torch_checkpoint=seed1/epoch_last.pth --torch_log=seed1/log.csv
  python -m probegen_jax.compare --config=configs/mnist.py --workdir=runs/mine --export=ours.pth

  --config=FILE[:METHOD][,PROBES]   settings: the zoo, the split, and the model
  --config.KEY=VALUE                changes one setting
  --torch_checkpoint=FILE           an official checkpoint, evaluated here on our split; may be
                                    given several times, once for each seed
  --torch_log=FILE                  its log.csv, to compare with; one for each checkpoint
  --torch_seed=N                    for uniform and dead_leaves, whose probes a checkpoint does not
                                    hold: the --seed of the official run, which decides them;
                                    one for each checkpoint
  --torch_probes=FILE               or the probes themselves, as --export writes them
  --workdir=DIR                     our run: its figures, over its seeds
  --export=FILE                     writes our run as official checkpoints, the parameters of the
                                    last step; with several seeds FILE-seed0.pth, FILE-seed1.pth, …
  --out=FILE                        where the comparison goes as JSON; compare.json if not given

Reading and writing checkpoints needs torch: pip install -r requirements-torch.txt

Exit codes: 0 done; 2 a mistake in the command, or something that does not fit, told in one line.
"""

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from absl import flags

from probegen_jax import command, errors, settings
from probegen_jax.config_files import config_path
from probegen_jax.errors import UserError
from probegen_jax.files import write_json
from probegen_jax.method import published_figures
from probegen_jax.runs.folder import refuse_other

# Settings of our run that may differ from the comparison's: they change no function and no zoo.
_FREE = ("seed", "num_seeds", "eval_every", "checkpoint_every", "matmul_precision")


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = settings.parse(argv, __doc__, _define)
    compare(values.config, values, str(config_path(argv)))


def _define(values: flags.FlagValues) -> None:
    for name in ("torch_checkpoint", "torch_log", "torch_probes"):
        flags.DEFINE_multi_string(name, [], name, flag_values=values)
    flags.DEFINE_multi_integer("torch_seed", [], "seeds of official runs", flag_values=values)
    flags.DEFINE_string("workdir", None, "our run", flag_values=values)
    flags.DEFINE_string("export", None, "official checkpoint of our run", flag_values=values)
    flags.DEFINE_string("out", "compare.json", "the comparison", flag_values=values)


def compare(config: Any, options: Any, config_file: str) -> dict[str, Any]:
    """Makes the comparison, shows it, and writes it; returns what was written.

    Raises:
      UserError: anything that does not fit, before anything is written.
    """
    _check(options)
    # Imports are here so that a mistake on the command line is reported at once.
    from probegen_jax.method.readouts.registry import DEFAULT, name_in
    from probegen_jax.official import files, parameters
    from probegen_jax.runs.experiment import load_run, set_up

    theirs = options.torch_checkpoint or options.export
    if theirs and config.method not in parameters.METHODS:
        raise UserError(
            f"method is {config.method!r}, which the official code does not have; it has "
            f"{', '.join(parameters.METHODS)}"
        )
    if theirs and name_in(config) != DEFAULT:
        raise UserError(f"readout is {config.readout!r}, which the official code does not have")
    for key, official in (("generator", "convolutional"), ("generator_activation", "none")):
        if theirs and config.get(key, official) != official:
            raise UserError(f"{key} is {config[key]!r}, which the official code does not have")
    if theirs and config.get("w0_first") is not None:
        raise UserError(
            f"w0_first is {config.w0_first}, but the official code has one w0 for all layers of a "
            "network; it cannot run such a zoo, so leave out --torch_checkpoint and --export"
        )
    workdir = None if options.workdir is None else pathlib.Path(options.workdir)
    ours = None if workdir is None else _our_run(workdir, config)
    if options.export:
        _check_export(pathlib.Path(options.export))
    experiment = set_up(config)
    if (theirs or options.torch_log) and experiment.zoo.task == "multilabel":
        raise UserError("networks have several classes, which the official code does not have")
    logs = [
        {"log": path} | files.read_log(pathlib.Path(path), experiment.metric_name)
        for path in options.torch_log
    ]
    published = published_figures.of(config.to_dict())
    result: dict[str, Any] = {
        "dataset": experiment.zoo.name,
        "method": config.method,
        "num_probes": config.num_probes,
        "metric": experiment.metric_name,
        "networks": {split: len(rows) for split, rows in experiment.zoo.splits.items()},
        "torch": _torch_runs(experiment, options, config_file),
        "torch_logs": logs,
        "ours": ours,
        "published": None if published is None else vars(published),
    }
    if options.export:
        place = config.get("checkpoint_dir")
        run = load_run(workdir, {"checkpoint_dir": place} if place else {}, experiment)
        result["exported"] = _export(run, pathlib.Path(options.export))
    write_json(pathlib.Path(options.out), result)
    print(table(result))
    return result


def _check(options: Any) -> None:
    """Refuses flags that do not go together."""
    if not options.torch_checkpoint and not options.workdir:
        raise UserError("nothing to compare; give --torch_checkpoint=FILE or --workdir=DIR")
    if options.export and not options.workdir:
        raise UserError("--export writes our run; say which with --workdir=DIR")
    number = len(options.torch_checkpoint)
    for name in ("torch_log", "torch_seed", "torch_probes"):
        given = len(getattr(options, name))
        if given not in (0, number):
            raise UserError(
                f"{number} times --torch_checkpoint and {given} times --{name}; give one for each "
                "checkpoint, in the same order"
            )
    for path in (*options.torch_checkpoint, *options.torch_log, *options.torch_probes):
        if not pathlib.Path(path).is_file():
            raise UserError(f"no file at {path}")
    command.check_writable(pathlib.Path(options.out), "compare.json")
    if options.torch_seed and options.torch_probes:
        raise UserError("--torch_seed and --torch_probes both give the probes; leave one out")


def _our_run(workdir: pathlib.Path, config: Any) -> dict[str, Any]:
    """Figures of our run, which must be finished and of the same settings."""
    from probegen_jax.runs import records
    from probegen_jax.runs.experiment import run_config

    alike = dict.fromkeys(_FREE)
    refuse_other(workdir, run_config(workdir).to_dict() | alike, config.to_dict() | alike)
    result = records.read_result(workdir)
    if result is None:
        raise UserError(f"the run in {workdir} is not finished; go on with it first")
    return {"workdir": str(workdir), "seeds": result["seeds"], "seconds": result["seconds"]}


def _torch_runs(experiment: Any, options: Any, config_file: str) -> list[dict[str, Any]]:
    """Evaluates the official checkpoints on our splits."""
    from probegen_jax.official import files

    paths = [pathlib.Path(path) for path in options.torch_checkpoint]
    if not paths:
        return []
    params = [files.load_checkpoint(path, experiment, config_file) for path in paths]
    fixed = "generator" not in params[0]
    if fixed and not (options.torch_seed or options.torch_probes):
        raise UserError(
            f"{paths[0]} holds no probes, because they were not trained; add --torch_seed=1 if the "
            "official run was started with --seed=1, or give the probes with --torch_probes=FILE"
        )
    if not fixed and (options.torch_seed or options.torch_probes):
        raise UserError(
            f"{paths[0]} holds its probes; leave out --torch_seed and --torch_probes, which are "
            "for probes that are not trained"
        )
    probes = [files.seeded_probes(experiment, seed) for seed in options.torch_seed] or [
        files.load_probes(pathlib.Path(path), experiment) for path in options.torch_probes
    ]
    state = files.stacked(params, probes)
    outputs = {
        split: experiment.outputs(state, experiment.zoo.splits[split]) for split in ("val", "test")
    }
    entries = experiment.entries([0] * len(paths), outputs)
    return [
        {"checkpoint": str(path), **{k: v for k, v in entry.items() if k != "step"}}
        for path, entry in zip(paths, entries, strict=True)
    ]


def _check_export(path: pathlib.Path) -> None:
    if path.suffix != ".pth":
        raise UserError(f"--export={path}: give a name that ends in .pth")
    if not path.parent.is_dir():
        raise UserError(f"--export={path}: there is no folder {path.parent}")
    written = [path, *path.parent.glob(f"{path.stem}-seed*.pth"), _probes_path(path)]
    for file in written:
        if file.exists():
            raise UserError(f"--export: {file} exists; delete it, or choose another name")


def _export(run: Any, path: pathlib.Path) -> list[str]:
    """Writes every seed's parameters, and also the probes if they are not trained."""
    import jax
    import numpy as np

    from probegen_jax.official import parameters
    from probegen_jax.zoo.files import torch_files

    seeds, written = run.experiment.seeds, []
    for i, seed in enumerate(seeds):
        params, fixed = jax.tree.map(
            lambda leaf, i=i: np.asarray(leaf[i]), (run.params(), run.state.fixed)
        )
        name = path if len(seeds) == 1 else path.with_name(f"{path.stem}-seed{seed}.pth")
        torch_files.save_state_dict(name, parameters.to_official(params))
        written.append(str(name))
        if fixed:
            probes = parameters.to_official_probes(fixed["generator"]["probes"])
            torch_files.save_state_dict(_probes_path(name), {"input": probes})
            written.append(str(_probes_path(name)))
    return written


def _probes_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.stem}.probes.pth")


def table(result: dict[str, Any]) -> str:
    """The comparison as text: a line for each source, validation and test."""
    lines = [("", "validation", "test")]

    def add(name: str, runs: Sequence[dict[str, Any]]) -> None:
        if runs:
            count = f" ({len(runs)} seeds)" if len(runs) > 1 else ""
            lines.append((name + count, *(spread([r[s] for r in runs]) for s in ("val", "test"))))

    add("PyTorch checkpoint, evaluated here", result["torch"])
    for which, name in (("last", "last row"), ("best", "best on validation")):
        add(f"PyTorch's log, {name}", [log[which] for log in result["torch_logs"]])
    ours = result["ours"]["seeds"] if result["ours"] else []
    add("ours, last step", [seed["last"] for seed in ours])
    add("ours, best on validation", [seed["best"] for seed in ours])
    if result["published"]:
        figure = result["published"]
        doubt = "" if figure["verified"] else " ?"
        lines.append((f"published ({figure['source']})", "", f"{figure['value']:.3f}{doubt}"))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    title = (
        f"{result['dataset']}, {result['method']}-{result['num_probes']}: {result['metric']} on "
        f"{result['networks']['val']} and {result['networks']['test']} networks"
    )
    rows = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([title, *rows])


def spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"


if __name__ == "__main__":
    errors.run(main)
