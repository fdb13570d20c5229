"""Readouts of weights: baselines that probe nothing."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from probegen_jax.errors import UserError
from probegen_jax.method.dropout import Noise
from probegen_jax.method.readouts.base import Readout, Sizes
from probegen_jax.method.readouts.outputs import Head
from probegen_jax.networks.contract import NetworkSpec


class Flat(Readout):
    """An MLP over all weights of a network, each standardised over the training networks."""

    reads_weights: ClassVar[bool] = True
    standardises: ClassVar[bool] = True

    def __init__(self, values: int, sizes: Sizes, *, rngs: nnx.Rngs):
        # Parameters, so that checkpoints and exports hold them; but no gradient reaches them.
        self.mean, self.std = nnx.Param(jnp.zeros(values)), nnx.Param(jnp.ones(values))
        self.head = Head.of(values, sizes, rngs=rngs)

    @classmethod
    def make(cls, spec: NetworkSpec, sizes: Sizes, *, rngs: nnx.Rngs) -> "Flat":
        return cls(cls.num_values(spec, sizes), sizes, rngs=rngs)

    @staticmethod
    def answers(spec: NetworkSpec, weights: Any, probes: Any) -> Float[Array, "B 1 V"]:
        """See `Readout`; there are no probes."""
        return spec.flat(weights)[:, None]

    @classmethod
    def num_values(cls, spec: NetworkSpec, sizes: Sizes) -> int:
        if (network := spec.abstract()) is None:
            raise UserError(
                f"networks like {type(spec).__name__} do not say what arrays they have, which "
                "methods that read weights need; let the spec's `abstract` say it"
            )
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), network)
        return jax.eval_shape(lambda weights: cls.answers(spec, weights, None), one).shape[-1]

    @staticmethod
    def spread(
        values_NxV: Float[np.ndarray, "N V"],
    ) -> tuple[Float[np.ndarray, " V"], Float[np.ndarray, " V"]]:
        """Mean and standard deviation of the training networks' values, for `standardise`."""
        mean_V, std_V = (of(values_NxV, axis=0, dtype=np.float64) for of in (np.mean, np.std))
        alike_V = std_V <= 1e-6 * np.abs(mean_V) + 1e-12  # all networks' values, but for rounding
        return mean_V.astype(np.float32), np.where(alike_V, 1, std_V).astype(np.float32)

    def standardise(self, mean_V: Float[np.ndarray, " V"], std_V: Float[np.ndarray, " V"]) -> None:
        """Takes what `spread` has found."""
        self.mean[...], self.std[...] = jnp.asarray(mean_V), jnp.asarray(std_V)

    @staticmethod
    def last_layer(params: Mapping[str, Any]) -> tuple[str | int, ...]:
        return "head", *Head.last_layer(params["head"])

    def __call__(
        self, answers: Float[Array, "B 1 V"], noise: Noise | None = None
    ) -> Float[Array, "B O"]:
        mean_V, std_V = map(jax.lax.stop_gradient, (self.mean[...], self.std[...]))
        return self.head((answers - mean_V[None, None]) / std_V[None, None], noise)


class Statistics(Flat):
    """An MLP over statistics of each array of a network, see `networks.statistics`."""

    @staticmethod
    def answers(spec: NetworkSpec, weights: Any, probes: Any) -> Float[Array, "B 1 V"]:
        return spec.statistics(weights)[:, None]

    @classmethod
    def num_values(cls, spec: NetworkSpec, sizes: Sizes) -> int:
        return spec.num_statistics or super().num_values(spec, sizes)
