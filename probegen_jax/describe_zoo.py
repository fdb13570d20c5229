"""Describes a zoo without training: counts, targets, and weights next to published statistics.

  python -m probegen_jax.describe_zoo --config=configs/digits.py
  python -m probegen_jax.describe_zoo --config=configs/mnist.py --config.manual_dir=DIR

  --config=FILE         settings
  --config.KEY=VALUE    changes one setting

It downloads and prepares the zoo if that has not been done yet.

Exit codes: 0 done; 2 a mistake in the command, told in one line (--debug shows the stack trace);
130 interrupted.
"""

from collections.abc import Sequence

from probegen_jax import errors, settings


def main(argv: Sequence[str]) -> None:
    """Prints the description of a config's zoo."""
    config = settings.parse(argv, __doc__).config
    from probegen_jax.runs.zoo_from_config import from_config

    print(from_config(config).describe())


if __name__ == "__main__":
    errors.run(main)
