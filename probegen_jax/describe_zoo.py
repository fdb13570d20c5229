"""Describes a zoo without training: counts, targets, and weights next to published statistics.

  python -m probegen_jax.describe_zoo --config=configs/digits.py
  python -m probegen_jax.describe_zoo --config=configs/mnist.py --config.manual_dir=DIR

  --config=FILE         settings
  --config.KEY=VALUE    changes one setting
  --out=FILE.png        also draws a few networks: of INRs, what they draw; of those on points in
                        space, the mean along each coordinate

It downloads and prepares the zoo if that has not been done yet.

Exit codes: 0 done; 2 a mistake in the command, told in one line (--debug shows the stack trace);
130 interrupted.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from probegen_jax import command, errors, settings
from probegen_jax.errors import UserError


def main(argv: Sequence[str]) -> None:
    """Prints the description of a config's zoo, and draws some of its networks if wanted."""

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_string("out", None, "of a few networks", flag_values=values)

    values = settings.parse(argv, __doc__, define)
    picture = values.out and pathlib.Path(values.out)
    if picture:
        command.check_writable(picture, "zoo.png")
    from probegen_jax.runs.zoo_from_config import from_config

    zoo = from_config(values.config)
    print(zoo.describe())
    if not picture:
        return
    from probegen_jax.report import figures, findings

    drawn = findings.drawn(zoo, findings.different_targets(zoo))
    if not drawn:
        raise UserError(f"networks of {zoo.name} draw nothing; leave out --out")
    figures.save(figures.draw_networks(list(drawn.values())), picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    errors.run(main)
