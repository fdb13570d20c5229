"""A zoo in words and numbers: counts, targets, and weights beside the published statistics."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Num

from probegen_jax.zoo.zoo import SPLITS, Zoo

# Standard deviation of each array over all networks and entries, from the statistics that the
# publishers of the splits computed on their training networks (mkofinas/neural-graphs).
PUBLISHED_STD = {
    "mnist_inr": {
        "0.kernel": 0.0628,
        "0.bias": 0.0213,
        "1.kernel": 0.0183,
        "1.bias": 0.0110,
        "2.kernel": 0.1179,
        "2.bias": 0.0999,
    },
    "fmnist_inr": {
        "0.kernel": 0.0782,
        "0.bias": 0.0286,
        "1.kernel": 0.0324,
        "1.bias": 0.0167,
        "2.kernel": 0.1346,
        "2.bias": 0.0960,
    },
    "cifar10_gs": {
        "layers.0.kernel": 0.5502,
        "layers.0.bias": 0.4075,
        "layers.1.kernel": 0.4353,
        "layers.1.bias": 0.9724,
        "layers.2.kernel": 0.3643,
        "layers.2.bias": 1.9454,
        "head.kernel": 0.3682,
        "head.bias": 0.5446,
    },
}

_BINS = 10
_BAR = 40
_CHUNK = 4096


def describe(zoo: Zoo) -> str:
    """Counts, sizes, a histogram of the targets and statistics of the weights, as text."""
    what = {
        "classification": f"classification into {zoo.num_outputs} classes",
        "regression": "regression",
    }[zoo.task]
    size = zoo.spec.num_weights
    lines = [
        f"{zoo.name}: {len(zoo):,} networks"
        + (f" of {size:,} weights" if size is not None else "")
        + f", {what}",
        "  " + ", ".join(f"{split} {len(zoo.splits[split]):,}" for split in SPLITS),
    ]
    if zoo.runs_N is not None:
        lines.append(f"  from {len(np.unique(zoo.runs_N)):,} training runs")
    published = PUBLISHED_STD.get(zoo.name, {})
    lines += ["", "targets", *_targets(zoo), "", *weight_statistics(zoo, published)]
    return "\n".join(lines)


def _targets(zoo: Zoo) -> list[str]:
    if zoo.task != "classification":
        return histogram(zoo.targets_N)
    counts = np.bincount(zoo.targets_N, minlength=zoo.num_outputs)
    return _bars([str(label) for label in range(len(counts))], counts)


def histogram(values: Num[np.ndarray, " N"], digits: int = 3) -> list[str]:
    """A histogram as lines of text.

    Args:
      values: any number of them, all finite.
      digits: after the point, in the bounds.
    """
    counts, edges = np.histogram(values, _BINS)
    pairs = itertools.pairwise(edges)
    return _bars([f"{low:.{digits}f} to {high:.{digits}f}" for low, high in pairs], counts)


def _bars(names: list[str], counts: np.ndarray) -> list[str]:
    width = max(map(len, names))
    return [
        f"  {name:>{width}}  {count:7,}  {'█' * round(_BAR * count / counts.max())}".rstrip()
        for name, count in zip(names, counts.tolist(), strict=True)
    ]


def weight_statistics(zoo: Zoo, published: Mapping[str, float]) -> list[str]:
    """Mean and standard deviation of each array, beside published ones, as lines of text.

    Args:
      zoo: whose weights they are.
      published: standard deviations by array, as in `PUBLISHED_STD`; may be empty.
    """
    header = f"{'weights':<20}{'shape':>18}{'mean':>10}{'std':>10}"
    lines = [header + (f"{'published std':>16}" if published else "")]
    for path, leaf in jax.tree.leaves_with_path(zoo.weights):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if not np.issubdtype(leaf.dtype, np.floating):
            continue
        mean, std = mean_and_std(leaf)
        line = f"  {name:<18}{leaf.shape[1:]!s:>18}{mean:>10.4f}{std:>10.4f}"
        if name in published:
            line += f"{published[name]:>16.4f}"
        elif name == "programs.head.kernel":  # of zoos of mixed architectures
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
