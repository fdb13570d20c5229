"""ProbeGen: a generator's probes, every network's responses to them, a head that reads those."""

from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from probegen_jax.errors import UserError
from probegen_jax.method.generators import DeepLinear, Uniform, Vanilla
from probegen_jax.method.head import Head
from probegen_jax.method.image_generators import DeepLinearImage, FixedImages, VanillaImage
from probegen_jax.networks.contract import NetworkSpec


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
        return self.head(self.spec.respond(weights, self.generator()))


def make_generator(
    method: str,
    probe_shape: tuple[int, ...],
    num_probes: int,
    *,
    latent_dim: int,
    depth: int,
    width: int = 16,
    images: Float[np.ndarray, "M H W C"] | None = None,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """The probe source of a method.

    Args:
      method: "probegen" or "vanilla"; "uniform" for coordinates, "dead_leaves" for images.
      probe_shape: of one probe, as the zoo's spec says: coordinates (D,) or images (H, W, C).
      num_probes: P.
      latent_dim: of ProbeGen's latents.
      depth: of ProbeGen's generator.
      width: of ProbeGen's image generator, its channels before the last layer.
      images: for "dead_leaves", at least P of them.
      rngs: its `params` stream draws everything.

    Raises:
      UserError: no such method for such probes.
    """
    image_probes = len(probe_shape) == 3
    if method == "probegen" and image_probes:
        return DeepLinearImage(num_probes, probe_shape, latent_dim, width, depth, rngs=rngs)
    if method == "probegen":
        return DeepLinear(num_probes, latent_dim, probe_shape[0], depth, rngs=rngs)
    if method == "vanilla" and image_probes:
        return VanillaImage(num_probes, probe_shape, rngs=rngs)
    if method == "vanilla":
        return Vanilla(num_probes, probe_shape, rngs=rngs)
    if method == "uniform" and not image_probes:
        return Uniform(num_probes, probe_shape, rngs=rngs)
    if method == "dead_leaves" and image_probes:
        if images is None:
            raise ValueError("dead leaves need images")
        return FixedImages(num_probes, images, rngs=rngs)
    choices = ("probegen", "vanilla", "dead_leaves" if image_probes else "uniform")
    raise UserError(
        f"method is {method!r}, but this zoo's networks read "
        f"{'images' if image_probes else 'coordinates'}; choose from {', '.join(choices)}"
    )


def make_model(
    spec: NetworkSpec,
    method: str,
    num_probes: int,
    *,
    latent_dim: int,
    generator_depth: int,
    generator_width: int = 16,
    images: Float[np.ndarray, "M H W C"] | None = None,
    head_width: int,
    head_depth: int,
    num_outputs: int,
    rngs: nnx.Rngs,
) -> ProbeGen:
    """A fresh ProbeGen; arguments as in the config, and `images` for dead leaves."""
    generator = make_generator(
        method,
        spec.probe_shape,
        num_probes,
        latent_dim=latent_dim,
        depth=generator_depth,
        width=generator_width,
        images=images,
        rngs=rngs,
    )
    head = Head(num_probes * spec.response_dim, head_width, head_depth, num_outputs, rngs=rngs)
    return ProbeGen(spec, generator, head)
