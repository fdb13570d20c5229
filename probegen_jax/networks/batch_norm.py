"""BatchNorm of a trained network: a scale and a shift, folded into the layer before it."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from probegen_jax.errors import BadNetworkError

EPSILON = 1e-5  # torch's default


def folded(
    weight: Float[np.ndarray, "O ..."],
    bias: Float[np.ndarray, " O"] | None,
    norm: Mapping[str, np.ndarray],
    epsilon: float = EPSILON,
) -> tuple[Float[np.ndarray, "O ..."], Float[np.ndarray, " O"]]:
    """A layer with the BatchNorm after it, as one layer: its weight and bias, as exact as `weight`.

    Args:
      weight: in torch's layout, outputs first.
      bias: of the layer; None where it has none.
      norm: `running_mean` and `running_var`, and `weight` and `bias` unless it has neither.
      epsilon: added to the variance.
    """
    mean, variance = (norm[name].astype(np.float64) for name in ("running_mean", "running_var"))
    scale = norm.get("weight", np.float64(1)) / np.sqrt(variance + epsilon)
    shift = norm.get("bias", np.float64(0)) + ((0 if bias is None else bias) - mean) * scale
    by_output = scale.astype(weight.dtype).reshape(-1, *[1] * (weight.ndim - 1))
    return weight * by_output, shift.astype(weight.dtype)


def check(network: str, layer: str, norm: Mapping[str, np.ndarray]) -> None:
    """Raises a `BadNetworkError` if the statistics of a BatchNorm are missing or cannot be."""
    for name in ("running_mean", "running_var"):
        if name not in norm:
            raise BadNetworkError(
                network,
                f"{layer} has no {name}: a normalisation by the batch itself, or no BatchNorm",
                "train it with track_running_stats=True, which is torch's default",
            )
    if (norm["running_var"] < 0).any():
        raise BadNetworkError(network, f"{layer}.running_var has negative values")
