"""ProbeGen: a generator's probes, every network's responses to them, a head that reads those."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from probegen_jax.method.generators import registry
from probegen_jax.method.generators.base import Generator
from probegen_jax.method.head import Head
from probegen_jax.networks.contract import NetworkSpec


class ProbeGen(nnx.Module):
    """The whole predictor. What is trained is its `nnx.Param`s: generator and head."""

    def __init__(self, spec: NetworkSpec, generator: Generator, head: Head):
        """Args:
        spec: the zoo networks that the probes are shown to.
        generator: of probes (P, *spec.probe_shape).
        head: from responses (B, P, R) to outputs.
        """
        self.spec = spec
        self.generator = generator
        self.head = head

    def __call__(self, weights: Any) -> Float[Array, "B O"]:
        """Outputs (logits, or values) for the networks with stacked `weights`."""
        return self.head(self.spec.respond(weights, self.generator()))


def make_generator(
    settings: Mapping[str, Any],
    probe_shape: tuple[int, ...],
    *,
    images: Float[np.ndarray, "M H W C"] | None = None,
    rngs: nnx.Rngs,
) -> Generator:
    """The generator of a method.

    Args:
      settings: a config, as a dict; of it `method`, `num_probes`, and the method's own keys.
      probe_shape: of one probe, as the zoo's spec says: coordinates (D,) or images (H, W, C).
      images: as the generator's `needed_images` gives them.
      rngs: its `params` stream draws everything.

    Raises:
      UserError: no such method for such probes.
    """
    entry = registry.entry(settings["method"], probe_shape)
    own = {keyword: settings[key] for keyword, key in entry.settings.items()}
    if images is not None:
        own["images"] = images
    generator = entry.generator(settings["num_probes"], probe_shape, rngs=rngs, **own)
    if bool(jax.tree.leaves(nnx.state(generator, nnx.Param))) != entry.trained:
        raise ValueError(f"{entry.path}: its entry says trained={entry.trained}, which is not so")
    return generator


def head_shape(
    spec: NetworkSpec, settings: Mapping[str, Any], num_outputs: int
) -> tuple[int, int, int, int]:
    """Inputs, width, linear layers and outputs of the head, as `Head` takes them."""
    inputs = settings["num_probes"] * spec.response_dim
    return inputs, settings["head_width"], settings["head_depth"], num_outputs


def make_model(
    spec: NetworkSpec,
    settings: Mapping[str, Any],
    num_outputs: int,
    *,
    images: Float[np.ndarray, "M H W C"] | None = None,
    rngs: nnx.Rngs,
) -> ProbeGen:
    """A fresh ProbeGen.

    Args:
      spec: of the zoo networks.
      settings: a config, as a dict; of it what `make_generator` reads, `head_width` and
        `head_depth`.
      num_outputs: classes, or 1 for a value.
      images: as of `make_generator`.
      rngs: its `params` stream draws the generator, then the head.
    """
    generator = make_generator(settings, spec.probe_shape, images=images, rngs=rngs)
    return ProbeGen(spec, generator, Head(*head_shape(spec, settings, num_outputs), rngs=rngs))
