"""Probes that are points, for INRs: ProbeGen's deep linear generator, and the baselines."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from probegen_jax.errors import UserError
from probegen_jax.method.generators.base import Fixed, Generator
from probegen_jax.method.layers import dense, through


class DeepLinear(Generator):
    """ProbeGen for vectors: free latents through linear layers with no activation between them.

    (P, latent) → Dense → … → Dense → (P, D); Kahana et al. 2025, section 4: the depth biases the
    probes towards structure, though the map from latents to probes stays linear. With an activation
    it does not: that is for comparison.
    """

    def __init__(
        self,
        num_probes: int,
        probe_shape: tuple[int, ...],
        *,
        latent_dim: int,
        depth: int | None,
        activation: str = "none",
        rngs: nnx.Rngs,
    ):
        """Args:
        latent_dim: width of the latents and of the hidden layers (32 in the paper).
        depth: linear layers, at least 1; None is 2, as in the paper.
        activation: between the layers, a name in `ACTIVATIONS` ("none" in the paper).
        """
        self.activation = activation
        self.latents = nnx.Param(jax.random.normal(rngs.params(), (num_probes, latent_dim)))
        widths = [latent_dim] * (2 if depth is None else depth) + [*probe_shape]
        self.layers = nnx.List(dense(m, n, rngs=rngs) for m, n in itertools.pairwise(widths))

    def __call__(self) -> Float[Array, "P D"]:
        return through(self.layers, self.activation, self.latents[...])


class Vanilla(Generator):
    """Vanilla probing: every value of every probe is a free parameter, N(0, 1) at the start."""

    def __init__(self, num_probes: int, probe_shape: tuple[int, ...], *, rngs: nnx.Rngs):
        self.probes = nnx.Param(jax.random.normal(rngs.params(), (num_probes, *probe_shape)))

    def __call__(self) -> Float[Array, "P ..."]:
        return self.probes[...]


class Uniform(Generator):
    """Synthetic probes for INRs: fixed coordinates, U(-1, 1) on the image plane."""

    def __init__(self, num_probes: int, probe_shape: tuple[int, ...], *, rngs: nnx.Rngs):
        shape = (num_probes, *probe_shape)
        self.probes = Fixed(jax.random.uniform(rngs.params(), shape, jnp.float32, -1.0, 1.0))

    def __call__(self) -> Float[Array, "P ..."]:
        return self.probes[...]


class Pixels(Generator):
    """All pixels of an image as fixed probes: what INRs draw is read whole.

    Row by row, x first; over [-1, 1] on both axes, the outermost pixels lying on ±1 (the grid that
    the published zoos were fitted on).
    """

    def __init__(self, num_probes: int, probe_shape: tuple[int, ...], *, side: int, rngs: nnx.Rngs):
        """Args:
        num_probes: side², which `registry.METHODS` makes of it.
        side: pixels along each axis.
        """
        del rngs  # nothing is drawn
        if probe_shape != (2,):
            raise UserError(
                f"method is 'pixels', but this zoo's networks read points of {probe_shape[0]} "
                "coordinate(s), and pixels have 2; choose another"
            )
        line = jnp.linspace(-1.0, 1.0, side) if side > 1 else jnp.zeros(1)
        y, x = jnp.meshgrid(line, line, indexing="ij")
        self.probes = Fixed(jnp.stack([x.ravel(), y.ravel()], axis=-1))

    def __call__(self) -> Float[Array, "P 2"]:
        return self.probes[...]
