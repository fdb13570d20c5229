"""ProbeGen: a generator's probes, every network's responses to them, a head that reads those."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from probegen_jax.generators import make_generator
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


def make_model(
    spec: NetworkSpec,
    method: str,
    num_probes: int,
    *,
    latent_dim: int,
    generator_depth: int,
    head_width: int,
    head_depth: int,
    num_outputs: int,
    rngs: nnx.Rngs,
) -> ProbeGen:
    """A fresh ProbeGen; arguments as in the config."""
    generator = make_generator(
        method,
        spec.probe_shape,
        num_probes,
        latent_dim=latent_dim,
        depth=generator_depth,
        rngs=rngs,
    )
    head = Head(num_probes * spec.response_dim, head_width, head_depth, num_outputs, rngs=rngs)
    return ProbeGen(spec, generator, head)
