"""ProbeGen: a generator's probes, every network's responses to them, a head that reads those."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from probegen_jax.heads import Head
from probegen_jax.networks import NetworkSpec
from probegen_jax.respond import respond


class ProbeGen(nnx.Module):
    """The whole predictor. What is trained is its `nnx.Param`s: generator and head."""

    def __init__(self, spec: NetworkSpec, generator: nnx.Module, head: Head):
        """Args:
        spec: the zoo networks that the probes are shown to.
        generator: called without arguments, returns probes (P, *spec.probe_shape).
        head: from responses (B, P, R) to outputs.
        """
        self.spec = spec
        self.generator = generator
        self.head = head

    def __call__(self, weights: Any) -> Float[Array, "B O"]:
        """Outputs (logits, or values) for the networks with stacked `weights`."""
        return self.head(respond(self.spec, weights, self.generator()))
