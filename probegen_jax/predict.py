"""Predicts for networks of your own, or for a zoo, with a trained run.

  python -m probegen_jax.predict runs/digits-probegen-128 mine/*.pth
  python -m probegen_jax.predict runs/digits-probegen-128 folder --out=folder.csv
  python -m probegen_jax.predict runs/digits-probegen-128 --split=test
  python -m probegen_jax.predict models/digits network.safetensors

  RUN                a run folder, or a model that probegen_jax.export wrote
  FILES …            network files of torch or safetensors, folders of them, or a zoo of build_zoo;
                     docs/files.md says what is read
  --split=SPLIT      instead of files: train, val or test of the run's own zoo
  --out=FILE         the table to write, predictions.csv if not given: a line per network, in the
                     order given, with what was predicted or why that was not possible
  --at=last|best     parameters at a run's last step, or at its best on validation
  --KEY=DIR          where things lie now, if they have moved since: data_dir, zoo_dir, manual_dir,
                     splits_file, networks_dir, targets_csv, checkpoint_dir
  --debug            shows the stack trace of a mistake

Probabilities and values are means over the run's seeds. INR files hold a state dict with the arrays
of the run's zoo. CNN files hold a dict with `model`, the state dict, and `config`, the architecture
as in the CNN Wild Park; as .safetensors, the config is JSON in the metadata.

Exit codes: 0 done; 1 done, but some networks could not be predicted; 2 a mistake in the command,
told in one line; 130 interrupted.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from probegen_jax import command, errors
from probegen_jax.errors import UserError
from probegen_jax.files import write_text

EXIT_SOME_FAILED = 1
_SHOWN = 20


def main(argv: Sequence[str]) -> None:
    """Predicts for what the command line names."""

    def define(values: flags.FlagValues) -> None:
        splits = ["train", "val", "test"]
        flags.DEFINE_enum("split", None, splits, "of the run's zoo", flag_values=values)
        flags.DEFINE_string("out", "predictions.csv", "table", flag_values=values)
        flags.DEFINE_enum("at", "last", ["last", "best"], "parameters", flag_values=values)
        command.define_places(values)

    values, names = command.parse(argv, __doc__, define)
    if not names:
        raise UserError("no run given; say which, as in predict runs/digits-probegen-128 *.pth")
    folder, *files = names
    if bool(files) == bool(values.split):
        raise UserError("give files to predict for, or --split=test for the run's own zoo")
    out = pathlib.Path(values.out)
    command.check_writable(out, "predictions.csv")
    places = command.places(values)
    run = pathlib.Path(folder)
    predictions = (
        _of_split(run, values.split, values.at, places)
        if values.split
        else _of_files(run, files, values.at, places)
    )
    write_text(out, predictions.to_csv())
    for note in predictions.notes:
        print(note)
    failed = [
        (name, fault)
        for name, fault in zip(predictions.names, predictions.faults, strict=True)
        if fault is not None
    ]
    for name, fault in failed[:_SHOWN]:
        print(f"{name}: {fault}", file=sys.stderr)
    if len(failed) > _SHOWN:
        print(f"… and {len(failed) - _SHOWN} more, see {out}", file=sys.stderr)
    print(f"wrote {out}: {len(predictions) - len(failed)} networks predicted, {len(failed)} not")
    if failed:
        sys.exit(EXIT_SOME_FAILED)


def _of_files(run: pathlib.Path, files: list[str], which: str, places: Mapping[str, str]) -> Any:
    from probegen_jax.runs.exported import load
    from probegen_jax.zoo.own.networks import find_files

    zoos = [name for name in files if (pathlib.Path(name) / "plan.json").is_file()]
    if zoos and len(files) > 1:
        raise UserError(f"{zoos[0]} is a zoo; predict for it alone, without other files")
    if not zoos:
        find_files(files)  # tells of a folder without networks before anything is loaded
    predictor = load(run, which=which, places=places)
    if not zoos:
        return predictor.predict(files)
    from probegen_jax.zoo.prepared import built_zoos

    fidelity = predictor.reading.fidelity
    return predictor.predict(built_zoos.load(pathlib.Path(zoos[0]), None, fidelity))


def _of_split(run: pathlib.Path, split: str, which: str, places: Mapping[str, str]) -> Any:
    from probegen_jax.runs import exported, predictor
    from probegen_jax.runs.experiment import load_run

    if exported.is_model(run):
        raise UserError(f"{run} is an exported model, which has no zoo; give files, or the run")
    loaded = load_run(run, places)
    zoo = loaded.experiment.zoo
    return predictor.predictor_of(loaded, which).predict_rows(zoo, zoo.splits[split])


if __name__ == "__main__":
    errors.run(main)
