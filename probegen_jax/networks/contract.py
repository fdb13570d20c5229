"""The networks of a zoo: a static spec beside a pytree of weights, never Flax modules.

A spec is hashable and describes one network; `spec.apply(weights, probes)` runs it. The weights
of a zoo are the same pytree with a leading network axis.
"""

from typing import Any, Protocol, runtime_checkable

import jax


@runtime_checkable
class NetworkSpec(Protocol):
    """What every kind of zoo network can tell about itself."""

    @property
    def probe_shape(self) -> tuple[int, ...]:
        """Shape of one probe: (D,) for coordinates, (H, W, C) for images."""
        ...

    @property
    def response_dim(self) -> int:
        """Values that one network answers one probe with, R."""
        ...

    def apply(self, weights: Any, probes: jax.Array) -> jax.Array:
        """One network on every probe: probes (P, *probe_shape) to responses (P, R)."""
        ...

    def take(self, weights: Any, rows: jax.Array) -> Any:
        """The networks at `rows` of a zoo's stacked weights."""
        ...
