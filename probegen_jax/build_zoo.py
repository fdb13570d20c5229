"""Makes a zoo from images, which `probegen_jax.train` reads with --config.zoo_dir=DIR.

  python -m probegen_jax.build_zoo inr --images=digits --out=zoos/digits
  python -m probegen_jax.build_zoo inr --images=mnist --out=zoos/mnist --export=torch
  python -m probegen_jax.build_zoo inr --images=photos/ --grayscale --resize=28 --out=zoos/photos
  python -m probegen_jax.build_zoo cnn --images=mnist --num=1000 --out=zoos/mnist_cnn
  python -m probegen_jax.build_zoo inr --help

  inr   an implicit neural representation (a SIREN) of each image; the class is to be predicted
  cnn   CNNs with different hyper-parameters or architectures; how accurate is each?

Images (--images=SOURCE): digits; mnist, fashion_mnist, cifar10 (downloaded); tfds:NAME (prepared
by TFDS as array_record); idx:DIR (idx files under MNIST's names); FILE.npz; or a folder with a
subfolder of images for each class, maybe below train/ and test/. For inr also signals:FILE.npz,
volumes:FILE.npz (a grid of N x D x H x W) and points:FILE.npz (points, and values there).

A killed build loses nothing: the same command goes on where it stopped, and ends with the same
bytes. A folder that holds another zoo is refused.

Exit codes: 0 done, or done before; 2 a mistake in the command, told in one line; 130 interrupted.
"""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from probegen_jax import errors
from probegen_jax.errors import UserError
from probegen_jax.factory import arguments
from probegen_jax.factory.cnn import build_cnn
from probegen_jax.factory.inr import build_inr

# Each has `HELP`, `add_arguments(parser)` and `build(options)`.
_FAMILIES = {"inr": build_inr, "cnn": build_cnn}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"command line: {message}; --help shows the usage")


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    parser = _parser(None, (__doc__ or "").strip())
    families = parser.add_subparsers(dest="family", required=True, parser_class=_Parser)
    for name, family in _FAMILIES.items():
        added = families.add_parser(
            name,
            usage=argparse.SUPPRESS,
            description=family.HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        arguments.add_common(added)
        family.add_arguments(added)
    options = parser.parse_args(argv[1:])
    _FAMILIES[options.family].build(options)


def _parser(usage: str | None, description: str) -> _Parser:
    return _Parser(
        usage=usage or argparse.SUPPRESS,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


if __name__ == "__main__":
    errors.run(main)
