"""What is reported of a split's predictions; computed on the host, once per evaluation."""

from collections.abc import Callable

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]


def accuracy(outputs_NxO: np.ndarray, targets_N: np.ndarray) -> float:
    """Share of networks whose largest logit is their class, in [0, 1]."""
    return float(np.mean(np.argmax(outputs_NxO, axis=-1) == targets_N))


# The task's metric by name; larger is better.
METRICS: dict[str, tuple[str, Metric]] = {"classification": ("accuracy", accuracy)}
