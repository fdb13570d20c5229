"""Describes a zoo without training: counts, targets, weights, and what its networks draw.

  python -m probegen_jax.describe_zoo --config=configs/digits.py --out=zoo.png
  python -m probegen_jax.describe_zoo --config=configs/mnist.py --config.manual_dir=DIR

  --config=FILE         settings
  --config.KEY=VALUE    changes one setting
  --images=SOURCE       images that INRs were fitted to, as of build_zoo: how close are they?
  --out=FILE.png        also draws a few networks of each class: images, curves along a line, the
                        middle slice of a volume
  --out=FILE.html       the same as a page, with all that is printed

Of networks that draw images it says if a setting looks wrong: w0, the output shift and, with
--images, the order of coordinates. It downloads and prepares the zoo if that has not been done yet.

Exit codes: 0 done; 2 a mistake in the command, told in one line (--debug shows the stack trace);
130 interrupted.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from probegen_jax import command, errors, settings
from probegen_jax.errors import UserError
from probegen_jax.files import write_text

if TYPE_CHECKING:
    from probegen_jax.factory.images.sources import ImageSet
    from probegen_jax.zoo.zoo import Zoo

_COMPARED = 256  # networks, with images
_CHUNK = 4096  # images


def main(argv: Sequence[str]) -> None:
    """Prints the description of a config's zoo, and draws some of its networks if wanted."""

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_string("out", None, "of a few networks", flag_values=values)
        flags.DEFINE_string("images", None, "that networks draw", flag_values=values)

    values = settings.parse(argv, __doc__, define)
    out = values.out and pathlib.Path(values.out).expanduser()
    if out:
        command.check_writable(out, "zoo.png")
    from probegen_jax.runs.zoo_from_config import from_config
    from probegen_jax.zoo import misread

    zoo = from_config(values.config)
    lines, order = [], []
    if values.images:
        images = _images(zoo, values.images, values.config.get("data_dir"))
        zoo = dataclasses.replace(zoo, image_shape=images.image_shape[:2])
        lines, order = _compared(zoo, images)
    lines = [*zoo.describe().splitlines(), *lines]
    doubts = [f"{zoo.name} may be misread: {line}" for line in (*misread.doubts(zoo), *order)]
    print("\n".join([*lines, *doubts]))
    if not out:
        return
    from probegen_jax.report import contact_sheet, figures

    groups = contact_sheet.groups_of(zoo)
    if out.suffix == ".html":
        write_text(out, contact_sheet.page(zoo, lines, doubts, groups))
    elif groups:
        figures.save(figures.draw_groups(groups), out)
    else:
        raise UserError(f"networks of {zoo.name} draw nothing; leave out --out")
    print(f"wrote {out}")


def _images(zoo: "Zoo", source: str, data_dir: str | None) -> "ImageSet":
    """The images that the networks may have been fitted to, in their size and channels."""
    from probegen_jax.factory.images import grids, sources

    if zoo.spec.plane is None:
        raise UserError(f"networks of {zoo.name} draw no images; leave out --images")
    if source.partition(":")[0] in (*grids.KINDS, grids.POINTS):
        raise UserError(f"--images={source} are no images, as networks of {zoo.name} draw them")
    images = sources.load(
        source,
        grayscale=zoo.spec.response_dim == 1,
        resize=zoo.image_shape,
        data_dir=pathlib.Path(data_dir).expanduser() if data_dir else None,
    )
    channels = images.image_shape[-1]
    if channels != zoo.spec.response_dim:
        raise UserError(
            f"--images={source} has {images.summary()}, but networks of {zoo.name} draw images of "
            f"{zoo.spec.response_dim} channels; give others"
        )
    return images


def _compared(zoo: "Zoo", images: "ImageSet") -> tuple[list[str], list[str]]:
    """How close some networks come to images, and whether they are turned; lines of text."""
    from probegen_jax.factory.images.sources import scaled
    from probegen_jax.zoo import describe, misread

    parts = (
        scaled(part.images[start : start + _CHUNK])
        for part in (images.train, images.test)
        for start in range(0, len(part), _CHUNK)
    )
    psnr_N, doubts = misread.compared(zoo, misread.some(zoo, _COMPARED), parts)
    title = f"PSNR in dB of {len(psnr_N)} networks to the closest image of {images.name}"
    return ["", *describe.psnr(psnr_N, title)], doubts


if __name__ == "__main__":
    errors.run(main)
