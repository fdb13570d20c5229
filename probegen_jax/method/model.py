"""ProbeGen: a generator's probes, every network's responses to them, a head that reads those."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from probegen_jax.method.generators import registry
from probegen_jax.method.generators.base import Generator
from probegen_jax.method.readouts.base import Readout, Sizes
from probegen_jax.method.readouts.registry import name_in, readout
from probegen_jax.networks.contract import NetworkSpec


class ProbeGen(nnx.Module):
    """The whole predictor. What is trained is its `nnx.Param`s: generator and head."""

    def __init__(self, spec: NetworkSpec, generator: Generator, head: Readout):
        self.spec = spec
        self.generator = generator
        self.head = head

    def __call__(self, weights: Any) -> Float[Array, "B O"]:
        """Outputs (logits, or values) for the networks with stacked `weights`."""
        return self.head(self.head.answers(self.spec, weights, self.generator()))


def make_generator(
    settings: Mapping[str, Any],
    probe_shape: tuple[int, ...],
    *,
    images: Float[np.ndarray, "N H W C"] | None = None,
    rngs: nnx.Rngs,
    platform: str = "cpu",
) -> Generator:
    """The generator of a method; a `UserError` if it has none for such probes.

    Of the settings, a config as a dict, it reads `method`, `num_probes`, and the method's own keys.
    The images are those of the generator's `needed_images`; the platform is that of
    `networks.contract.Options`.
    """
    entry = registry.entry(settings["method"], probe_shape)
    own = {keyword: settings[key] for keyword, key in entry.settings.items()}
    own |= {keyword: settings[key] for keyword, key in entry.optional.items() if key in settings}
    if images is not None:
        own["images"] = images
    generator = entry.generator(settings["num_probes"], probe_shape, rngs=rngs, **own)
    generator.platform = platform
    if bool(jax.tree.leaves(nnx.state(generator, nnx.Param))) != entry.trained:
        raise ValueError(f"{entry.path}: its entry says trained={entry.trained}, which is not so")
    return generator


def head_sizes(settings: Mapping[str, Any], num_outputs: int) -> Sizes:
    """What the readout of a config is made from."""
    return Sizes(
        settings["num_probes"], settings["head_width"], settings["head_depth"], num_outputs
    )


def make_model(
    spec: NetworkSpec,
    settings: Mapping[str, Any],
    num_outputs: int,
    *,
    images: Float[np.ndarray, "N H W C"] | None = None,
    rngs: nnx.Rngs,
    platform: str = "cpu",
) -> ProbeGen:
    """A fresh ProbeGen, see `make_generator` and `readouts.base.Readout`.

    Outputs are classes, or 1 for a value. The stream `params` draws the generator, then the head.
    """
    shape = spec.probe_shape
    generator = make_generator(settings, shape, images=images, rngs=rngs, platform=platform)
    kind = readout(name_in(settings))
    head = kind.make(spec, head_sizes(settings, num_outputs), rngs=rngs)
    return ProbeGen(spec, generator, head)
