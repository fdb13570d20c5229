"""What the command lines of zoo builds have in common."""

import argparse
import math
import pathlib
from collections.abc import Callable


def add_common(parser: argparse.ArgumentParser) -> None:
    """Adds where images come from and where the zoo goes."""
    add = parser.add_argument
    add("--images", required=True, metavar="SOURCE", help="where the images are from, see above")
    add("--out", required=True, type=pathlib.Path, metavar="DIR", help="folder of the zoo")
    add("--grayscale", action="store_true", help="replace channels by their mean")
    add("--resize", type=size, metavar="N|HxW", help="bring every image to this size")
    add("--seed", type=whole_from(0), default=0, metavar="N", help="of all that is random (0)")
    add("--data_dir", type=pathlib.Path, metavar="DIR", help="where downloads are kept")


def size(text: str) -> tuple[int, int]:
    """Height and width from `28` or `28x32`."""
    height, _, width = text.partition("x")
    sides = [height, width or height]
    if not all(side.isdecimal() and 1 <= int(side) <= 4096 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give 28 or 28x32, height first")
    return int(sides[0]), int(sides[1])


def whole_from(least: int) -> Callable[[str], int]:
    """Reads a whole number that is not below `least`."""

    def whole_number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
        return int(text)

    return whole_number


def _between_0_and(limit: float, what: str) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < limit:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return number


positive = _between_0_and(math.inf, "a number above 0")
share = _between_0_and(1.0, "between 0 and 1")


def widths(text: str) -> tuple[int, ...]:
    """Reads widths of hidden layers, as in `32,32`."""
    parts = text.split(",")
    if not all(part.isdecimal() and 1 <= int(part) <= 65_536 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of widths; give for example 32,32")
    return tuple(int(part) for part in parts)
