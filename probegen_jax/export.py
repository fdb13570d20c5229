"""Makes one movable folder of a trained run, to predict with anywhere or to upload to a model hub.

  python -m probegen_jax.export runs/digits-probegen-128 models/digits
  python -m probegen_jax.export runs/digits-probegen-128 models/digits --at=best

  RUN OUT            the run folder, and the folder to make
  --at=last|best     parameters at the last step, or at the best on validation
  --KEY=DIR          where things lie now, if they have moved since: data_dir, zoo_dir, manual_dir,
                     splits_file, networks_dir, targets_csv, checkpoint_dir
  --debug            shows the stack trace of a mistake

OUT holds model.safetensors (probes, heads and generators of all seeds), config.json (settings and
the networks' architecture) and README.md (a card with the figures). `probegen_jax.load(OUT)` and
`python -m probegen_jax.predict OUT FILES…` work without the run and its zoo.

Exit codes: 0 done; 2 a mistake in the command, told in one line; 130 interrupted.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from probegen_jax import command, errors
from probegen_jax.errors import UserError


def main(argv: Sequence[str]) -> None:
    """Exports the run on the command line."""

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_enum("at", "last", ["last", "best"], "parameters", flag_values=values)
        command.define_places(values)

    values, names = command.parse(argv, __doc__, define)
    if len(names) != 2:
        raise UserError("give the run and the folder to make, as in runs/digits models/digits")
    run_folder, out = map(pathlib.Path, names)
    # Imports are here so that a mistake on the command line is reported at once.
    from probegen_jax.runs import exported
    from probegen_jax.runs.experiment import load_run

    exported.refuse_existing(out)
    run = load_run(run_folder, command.places(values))
    print(f"wrote {out}: {', '.join(exported.export(run, out, values.at))}")


if __name__ == "__main__":
    errors.run(main)
