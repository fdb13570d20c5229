"""One page about a run, or about several side by side; it needs no network to be read.

  python -m probegen_jax.report runs/digits-probegen-128
  python -m probegen_jax.report runs/digits-probegen-128 runs/digits-vanilla-128 --out=both.html

  RUN …              run folders; one that is not finished is shown at its last checkpoint
  --out=FILE         the page; report.html in the run folder if not given, needed for several runs
  --KEY=DIR          where things lie now, if they have moved since: data_dir, zoo_dir, manual_dir,
                     splits_file, networks_dir, targets_csv, checkpoint_dir
  --debug            shows the stack trace of a mistake

Pictures are written into each run folder: probes.png, curves.png, and pictures/*.svg.

Exit codes: 0 done; 2 a mistake in the command, told in one line; 130 interrupted.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from probegen_jax import command, errors


def main(argv: Sequence[str]) -> None:
    """Writes the report of the runs on the command line."""

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_string("out", None, "page", flag_values=values)
        command.define_places(values)

    values, folders = command.parse(argv, __doc__, define)
    if not folders:
        raise errors.UserError("no run given; say which, as in report runs/digits-probegen-128")

    from probegen_jax.report.write import page_path, write_report
    from probegen_jax.runs.experiment import load_run, run_config

    paths = [pathlib.Path(folder) for folder in folders]
    places = command.places(values)
    for path in paths:
        run_config(path)  # refuses what is no run before anything is loaded
    out = page_path(paths, pathlib.Path(values.out) if values.out else None)
    print(f"wrote {write_report([load_run(path, places) for path in paths], out)}")


if __name__ == "__main__":
    errors.run(main)
