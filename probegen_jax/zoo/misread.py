"""Whether networks that draw images look misread: a wrong w0, output shift or order of the grid.

Nothing fails where such a setting is wrong; the networks just draw something else. But what they
draw shows it. A network that was fitted to an image with values in a range leaves the range by no
more than its error, and neighbouring pixels agree. With another w0 it draws waves that do neither.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.zoo.zoo import Zoo

# Values of w0 that people use.
_W0S = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 60.0)
# siren-pytorch's, whose first layer has another.
_SIREN_PYTORCH = (1.0, 30.0)
# Sides of images that are tried where the zoo does not know its own: a network that was fitted too
# well draws anything between the pixels.
_SIDES = (28, 32, 16, 8)
_LEAST_SIDE = 4  # of an image, for its pixels to have neighbours
_NETWORKS = 32
_MOST_WORK = 2e9  # multiplications, for all that is tried: under a second of one core

# The ranges of images, less the shift that belongs to them. The narrower come first: where values
# fit one, they fit the wider, too.
_RANGES = {
    (-0.5, 0.5): (0.5, "[0, 1]"),
    (0.0, 1.0): (0.0, "[0, 1]"),
    (-1.0, 1.0): (0.0, "[-1, 1]"),
}

# Measured on 32 networks each of 28 zoos: SIRENs fitted to MNIST, Fashion-MNIST, CIFAR-10 and the
# digits with a w0 of 10, 20, 30, 60, or siren-pytorch's, in 15 to 1,000 steps, to 18 to 108 dB, to
# targets in [0, 1] or [-1, 1]; and the published INR that is to hand. Out of range, by root mean
# square in units of a drawing's standard deviation: 0 to 0.11 as fitted (0.17 at 18 dB); with
# another w0, from 0.01 (where noise is faint) to 1.3, usually 0.3. Correlation of neighbouring
# pixels: 0.53 to 0.95 as fitted; with a w0 twice as large, 0 to 0.78, usually below 0.1. Gain: 1.5
# to 3.6, of digits 7.
# So no zoo gives a line as it was fitted. Read with a w0 of 1, 10, 20, 30 or 60 that is wrong, or
# with the other shift, 130 of 140 give the right line where the size of images is known (two give
# none; the eight that give another are of two zoos at 18 dB), and 122 where it is not.
_IN_RANGE = 0.2
_ROUGHER = 0.25  # correlation that a better reading may have less, where the given one is in range
_NOISE = 0.35  # correlation below which neighbouring pixels do not agree
_USUAL_GAIN, _OF_GAIN, _OF_LOW_GAIN = 2.0, 0.3, 0.6
_LEAST_TYPICAL = 0.15  # excess that counts as typical of wrong readings where all have less
_MARGIN = 0.35  # by which the given w0 must be worse than another
_SAME_SHIFT = 0.1
_LEAST_GAIN = 0.8
_CONSTANT = 1e-12  # variance of drawings that show nothing
_FAINT = 0.05  # excess that is as good as none
_ENDS = (0.005, 0.995)
# By how many dB images must be met better with coordinates in the other order. On nine of these
# zoos the right order is 4 to 29 dB better (4 at 19 dB).
_ORDER_MARGIN = 2.0


@dataclasses.dataclass(frozen=True)
class _Reading:
    """What networks draw with some w0, and how it looks.

    Attributes:
      flags: the settings that ask for it; empty of those given.
      gain: see `Drawable.phase_gain`.
      correlation: of neighbouring pixels, the median over the networks.
      excess: by how much values leave each of `_RANGES`, likewise.
      least: value that few pixels are below; `most`: that few are above.
    """

    flags: str
    gain: float | None
    correlation: float
    excess: tuple[float, ...]
    least: float
    most: float

    def cost(self, place: int, typical: float) -> float:
        """How little it looks like images in a range, where excess is that `typical` of others."""
        unusual = 0.0
        if self.gain is not None:
            weight = _OF_LOW_GAIN if self.nearly_linear else _OF_GAIN
            unusual = weight * abs(math.log2(self.gain / _USUAL_GAIN))
        return self.excess[place] / typical + 1 - self.correlation + unusual

    @property
    def nearly_linear(self) -> bool:
        """Whether sines hardly bend, as they do in no SIREN that was fitted."""
        return self.gain is not None and self.gain < _LEAST_GAIN


def doubts(zoo: Zoo) -> list[str]:
    """What speaks against the w0 and the output shift of a zoo of networks that draw images.

    Some networks are drawn, with the w0 that is given and with others.

    Returns:
      A line for each setting that looks wrong, with the value that looks right; none of zoos that
      draw no images.
    """
    spec = zoo.spec
    if spec.plane is None or min(zoo.image_shape or _SIDES) < _LEAST_SIDE:
        return []
    sizes = [zoo.image_shape] if zoo.image_shape else [(side, side) for side in _SIDES]
    work = sum(map(math.prod, sizes)) * (spec.num_weights or 1) * (len(_W0S) + 2)
    weights = some(zoo, max(2, min(_NETWORKS, int(_MOST_WORK / work))))
    readings = [_looks(spec, weights, sizes, "")]
    for w0, first in (*((w0, w0) for w0 in _W0S), _SIREN_PYTORCH):
        scaled = spec.at_w0(weights, w0, first)
        if scaled is not None:
            own = "" if first == w0 else f" --config.w0_first={first:g}"
            readings.append(_looks(spec, scaled, sizes, f"--config.w0={w0:g}{own}"))
    judged = [_judged(of_size, spec.output_shift or 0.0) for of_size in zip(*readings, strict=True)]
    return min(judged, key=lambda each: each[0])[1]


def some(zoo: Zoo, number: int) -> Any:
    """Stacked weights of at most `number` networks, spread evenly over the zoo."""
    rows = np.linspace(0, len(zoo) - 1, min(number, len(zoo)))
    return zoo.read(rows.astype(np.int32))


def _judged(readings: Sequence[_Reading], shift: float) -> tuple[float, list[str]]:
    """The doubts, from images of one size, after how well something stands out: low is well."""
    given = readings[0]
    usable = [each for each in readings if each is given or not each.nearly_linear]
    for place in range(len(_RANGES)):
        median = float(np.median([each.excess[place] for each in usable]))
        least = -math.inf
        if given.excess[place] <= _IN_RANGE and not given.nearly_linear:
            least = given.correlation - _ROUGHER
        tried = [each for each in usable if each.correlation >= least]
        costs = [each.cost(place, max(median, _LEAST_TYPICAL)) for each in tried]
        best = given if costs[0] <= min(costs) + _MARGIN else tried[int(np.argmin(costs))]
        excess = best.excess[place]
        if excess <= _IN_RANGE and best.correlation >= _NOISE:
            stands_out = (excess + _FAINT) / (median + _FAINT)
            return stands_out, _settings_told(given, best, place, shift)
    return math.inf, _no_images(given, shift, len(readings) > 1)


def _settings_told(given: _Reading, best: _Reading, place: int, shift: float) -> list[str]:
    """A line for each setting in which the given reading differs from the best."""
    (right_shift, name), found = list(_RANGES.values())[place], []
    if best is not given:
        found.append(
            f"w0 looks wrong: with {best.flags} neighbouring pixels correlate by "
            f"{best.correlation:.2f} (now {given.correlation:.2f}), and values leave {name} by "
            f"{best.excess[place]:.2f} of their standard deviation (now {given.excess[place]:.2f})"
        )
    if abs(right_shift - shift) > _SAME_SHIFT:
        found.append(
            f"output_shift looks wrong: values go from {best.least + shift:.2f} to "
            f"{best.most + shift:.2f}; with --config.output_shift={right_shift} they are in {name}"
        )
    return found


def _no_images(given: _Reading, shift: float, tried: bool) -> list[str]:
    """What is said where nothing that was tried gives images."""
    low, high = given.least + shift, given.most + shift
    if given.correlation < _NOISE:
        others = f", nor with a w0 of {', '.join(f'{w0:g}' for w0 in _W0S)}" if tried else ""
        return [
            "they draw noise, no images: neighbouring pixels correlate by "
            f"{given.correlation:.2f}{others}; are all settings of the networks right?"
        ]
    return [
        f"values go from {low:.2f} to {high:.2f}, and no output_shift brings them to [0, 1] or "
        "[-1, 1]; that is right only if the images had other values"
    ]


def _looks(
    spec: NetworkSpec, weights: Any, sizes: Sequence[tuple[int, ...]], flags: str
) -> list[_Reading]:
    """How what networks draw looks, at each size."""
    gain, found = spec.phase_gain(weights), []
    for drawn_NxHxWxC in spec.draws(weights, sizes):
        drawn = np.nan_to_num(drawn_NxHxWxC.astype(np.float64)) - (spec.output_shift or 0.0)
        variance_N = drawn.var(axis=(1, 2)).mean(axis=-1) + _CONSTANT
        steps = [np.square(np.diff(drawn, axis=axis)) for axis in (1, 2)]
        steps_N = np.concatenate([each.reshape(len(drawn), -1) for each in steps], axis=1).mean(1)
        excess = []
        for low, high in _RANGES:
            out = np.maximum(0, np.maximum(low - drawn, drawn - high))
            out_N = np.sqrt(np.square(out).mean(axis=(1, 2, 3)) / variance_N)
            excess.append(float(np.median(out_N)))
        correlation = float(np.median(1 - steps_N / (2 * variance_N)))
        ends = np.quantile(drawn, _ENDS).tolist()
        found.append(_Reading(flags, gain, correlation, tuple(excess), *ends))
    return found


def compared(
    zoo: Zoo, weights: Any, images: Iterable[Float[np.ndarray, "_ H W C"]]
) -> tuple[Float[np.ndarray, " N"], list[str]]:
    """How close networks come to the image that each draws best, and whether order is in doubt.

    Args:
      weights: stacked, of a few networks of the zoo, whose `image_shape` is that of the images.
      images: all that they may draw, in [0, 1], in parts.

    Returns:
      PSNR of each in dB, and at most one line: images are met better with coordinates the other
      way round.
    """
    spec, (height, width) = zoo.spec, zoo.image_shape
    drawn = spec.render(weights, height, width)
    turned = spec.render(weights, width, height).swapaxes(1, 2)
    psnr_N, other_N = np.split(closest(np.concatenate([drawn, turned]), images), 2)
    if other_N.mean() <= psnr_N.mean() + _ORDER_MARGIN:
        return psnr_N, []
    other = {"xy": "ij", "ij": "xy"}[spec.plane]
    return psnr_N, [
        f"the order of coordinates looks wrong: with --config.grid={other} drawings have "
        f"{other_N.mean():.1f} dB (now {psnr_N.mean():.1f} dB)"
    ]


def closest(
    drawn_NxHxWxC: Float[np.ndarray, "N H W C"], images: Iterable[Float[np.ndarray, "_ H W C"]]
) -> Float[np.ndarray, " N"]:
    """PSNR in dB of each drawing, for a peak value of 1, to the image that it is closest to."""
    drawn_NxV = drawn_NxHxWxC.reshape(len(drawn_NxHxWxC), -1)
    least_N = np.full(len(drawn_NxV), np.inf)
    for part in images:
        images_MxV = part.reshape(len(part), -1)
        products_NxM = drawn_NxV @ images_MxV.T
        nearest_N = (np.square(images_MxV).sum(axis=1) - 2 * products_NxM).argmin(axis=1)
        away_N = np.square(drawn_NxV - images_MxV[nearest_N]).mean(axis=1)
        least_N = np.minimum(least_N, away_N)
    return -10 * np.log10(np.maximum(least_N, np.finfo(np.float32).tiny))
