"""What `Zoo.describe` shows: bars of targets, and weights beside the published statistics."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num

from probegen_jax import trees

_ARRAYS = ("kernel", "bias")
_INR = [f"{layer}.{array}" for layer in range(3) for array in _ARRAYS]
_CNN = [*(f"layers.{array}" for array in _INR), *(f"head.{array}" for array in _ARRAYS)]
# Standard deviation of each array over all networks and entries, from the statistics that the
# publishers of the splits computed on their training networks (mkofinas/neural-graphs).
_STD = {
    "mnist_inr": (_INR, (0.0628, 0.0213, 0.0183, 0.0110, 0.1179, 0.0999)),
    "fmnist_inr": (_INR, (0.0782, 0.0286, 0.0324, 0.0167, 0.1346, 0.0960)),
    "cifar10_gs": (_CNN, (0.5502, 0.4075, 0.4353, 0.9724, 0.3643, 1.9454, 0.3682, 0.5446)),
}
PUBLISHED_STD = {zoo: dict(zip(*both, strict=True)) for zoo, both in _STD.items()}
# Of these zoos' networks, by name of the array.
_INR_SHAPES = dict(zip(_INR, ((2, 32), (32,), (32, 32), (32,), (32, 1), (1,)), strict=True))
_CONV, _BIAS = (3, 3, 16, 16), (16,)
_SMALL_CNN = ((3, 3, 1, 16), _BIAS, _CONV, _BIAS, _CONV, _BIAS, (16, 10), (10,))
_SHAPES = {
    "MNIST-INR": ("mnist_inr", _INR_SHAPES),
    "FMNIST-INR": ("fmnist_inr", _INR_SHAPES),
    "CIFAR10-GS": ("cifar10_gs", dict(zip(_CNN, _SMALL_CNN, strict=True))),
}

_BINS = 10
_BAR = 40
_MOST_CLASSES = 100  # with a line each
_MOST_IN_A_ROW = 12
_SPREAD = 1.0  # dB, below which there is no histogram to draw
_CHUNK = 4096


def class_counts(counts: Int[np.ndarray, " C"], names: Sequence[str]) -> list[str]:
    """A bar for each class, as lines of text; of many classes, those with most networks."""
    most = np.argsort(-counts, kind="stable")[:_MOST_CLASSES]
    most = np.sort(most) if len(names) <= _MOST_CLASSES else most
    bars = _bars([names[n] for n in most], counts[most])
    others = len(names) - len(most)
    return [*bars, f"  and {others:,} classes with fewer networks"] if others else bars


def histogram(values: Num[np.ndarray, " N"], digits: int = 3) -> list[str]:
    """A histogram of finite values as lines of text, with so many digits after the point."""
    counts, edges = np.histogram(values, _BINS)
    pairs = itertools.pairwise(edges)
    plain = 10.0**-digits <= edges[1] - edges[0] < 1e6
    form = f".{digits}f" if plain else ".5g"  # of values so small or large as to need an exponent
    return _bars([f"{low:{form}} to {high:{form}}" for low, high in pairs], counts)


def _bars(names: list[str], counts: np.ndarray) -> list[str]:
    width, most = max(map(len, names)), max(1, counts.max())
    return [
        f"  {name:>{width}}  {count:7,}  {'█' * round(_BAR * count / most)}".rstrip()
        for name, count in zip(names, counts.tolist(), strict=True)
    ]


def in_a_row(counts: Mapping[str, int]) -> str:
    """Counts with their names, most first, as many as a line takes."""
    most = sorted(counts.items(), key=lambda each: -each[1])
    more = f" and {len(most) - _MOST_IN_A_ROW} more" if len(most) > _MOST_IN_A_ROW else ""
    return ", ".join(f"{name} {count:,}" for name, count in most[:_MOST_IN_A_ROW]) + more


def psnr(values: Num[np.ndarray, " N"], title: str) -> list[str]:
    """Mean, quartiles and histogram of PSNRs in dB, as lines of text."""
    low, *quartiles = (f"{each:.1f}" for each in np.quantile(values, (0, 0.25, 0.5, 0.75)))
    mean = f"{title}: mean {values.mean():.1f}, quartiles {', '.join(quartiles)}, lowest {low}"
    return [mean, *(histogram(values, digits=1) if np.ptp(values) > _SPREAD else [])]


def published(name: str, weights: Any) -> dict[str, Mapping[str, float]]:
    """Published standard deviations to show beside those of a zoo, by heading.

    They are the zoo's own, or those of all published zoos whose networks are like its own.
    """
    if name in PUBLISHED_STD:
        return {"published std": PUBLISHED_STD[name]}
    arrays = trees.named(weights).items()
    shapes = {of: x.shape[1:] for of, x in arrays if np.issubdtype(x.dtype, np.floating)}
    return {
        f"{title}'s std": PUBLISHED_STD[zoo]
        for title, (zoo, like) in _SHAPES.items()
        if shapes == like
    }


def weight_statistics(weights: Any, beside: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Mean and standard deviation of each array, as lines of text.

    Args:
      beside: standard deviations of other zoos by array, in columns with these headings.
    """
    header = f"{'weights':<20}{'shape':>18}{'mean':>10}{'std':>10}"
    lines = [header + "".join(f"{heading:>18}" for heading in beside)]
    for name, leaf in trees.named(weights).items():
        if not np.issubdtype(leaf.dtype, np.floating):
            continue
        mean, std = mean_and_std(leaf)
        line = f"  {name:<18}{leaf.shape[1:]!s:>18}{mean:>10.4f}{std:>10.4f}"
        line += "".join(f"{column[name]:>18.4f}" for column in beside.values())
        if name == "programs.head.kernel":  # of zoos of mixed architectures
            line += "  with the zeros that pad it"
        lines.append(line)
    return lines


def mean_and_std(stacked: Float[Any, "N *shape"]) -> tuple[float, float]:
    """Mean and standard deviation over all entries, summed in float64, a part at a time."""
    total, squares = 0.0, 0.0
    for start in range(0, len(stacked), _CHUNK):
        part: Num[np.ndarray, n * shape] = np.asarray(stacked[start : start + _CHUNK], np.float64)
        total += float(part.sum())
        squares += float(np.square(part).sum())
    mean = total / stacked.size
    return mean, float(np.sqrt(max(squares / stacked.size - mean**2, 0.0)))
