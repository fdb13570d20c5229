"""Every network on every probe: the hot path."""

from typing import Any

import jax
from jaxtyping import Array, Float

from probegen_jax.networks.contract import NetworkSpec


def respond(
    spec: NetworkSpec, weights: Any, probes: Float[Array, "P ..."]
) -> Float[Array, "B P R"]:
    """Applies every network of a batch to every probe.

    Args:
      spec: what the networks have in common.
      weights: stacked weights with a leading network axis B.
      probes: shared by all networks, so that the first layer becomes one wide matmul.

    Returns:
      The responses of each network to each probe.
    """
    if hasattr(spec, "respond"):  # a whole batch at once is more than its networks one by one
        return spec.respond(weights, probes)
    return jax.vmap(spec.apply, in_axes=(0, None))(weights, probes)
