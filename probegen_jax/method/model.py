"""ProbeGen: a generator's probes, every network's responses to them, a head that reads those."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from probegen_jax.errors import UserError
from probegen_jax.method.dropout import Dropout, Noise
from probegen_jax.method.generators import registry
from probegen_jax.method.generators.base import Generator
from probegen_jax.method.moves import Moves, Reach
from probegen_jax.method.readouts.base import Readout, Sizes
from probegen_jax.method.readouts.registry import name_in, readout
from probegen_jax.networks.contract import NetworkSpec


class ProbeGen(nnx.Module):
    """The whole predictor. What is trained is its `nnx.Param`s: generator and head."""

    def __init__(
        self,
        spec: NetworkSpec,
        generator: Generator,
        head: Readout,
        moves: Moves | None = None,
        probe_dropout: Dropout | None = None,
    ):
        self.spec = spec
        self.generator = generator
        self.head = head
        self.moves = moves
        self.probe_dropout = probe_dropout
        self.drops = any(isinstance(part, Dropout) for _, part in nnx.iter_modules(head))

    def __call__(self, weights: Any, noise: Noise | None = None) -> Float[Array, "B O"]:
        """Outputs (logits, or values) for the networks with stacked `weights`.

        Args:
          noise: of a training step, if there is dropout or augmentation.
        """
        probes = self.generator()
        if noise is not None and self.moves is not None:
            weights = self.moves(weights, noise)
        if noise is not None and self.probe_dropout is not None:
            probes = self.probe_dropout(probes, dataclasses.replace(noise, first=0), 0)
        return self.read(self.head.answers(self.spec, weights, probes), noise)

    def read(self, answers: Float[Array, "B P A"], noise: Noise | None) -> Float[Array, "B O"]:
        """Outputs for what the networks have answered."""
        return self.head(answers, noise) if self.drops and noise is not None else self.head(answers)


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
    """What the readout of a config is made from; without dropout, which is for training alone."""
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

    Outputs are classes, or 1 for a value. Dropout and augmentation are as the settings say. The
    stream `params` draws the generator, then the head.
    """
    shape = spec.probe_shape
    generator = make_generator(settings, shape, images=images, rngs=rngs, platform=platform)
    kind = readout(name_in(settings), spec)
    sizes = head_sizes(settings, num_outputs)
    dropout = settings.get("dropout", 0.0)
    head = kind.make(spec, dataclasses.replace(sizes, dropout=dropout), rngs=rngs)
    head.platform = platform
    reach, share = Reach.of(settings), settings.get("probe_dropout", 0.0)
    moves = Moves(reach, spec, rngs=rngs) if reach else None
    probe_dropout = Dropout(share, rngs=rngs) if share else None
    model = ProbeGen(spec, generator, head, moves, probe_dropout)
    if dropout and not model.drops:
        raise UserError(
            f"dropout is {dropout}, but the readout {name_in(settings)!r} with head_depth "
            f"{sizes.depth} has no layer for it; use --config.dropout=0"
        )
    if reach and not jax.tree.leaves(nnx.state(generator, nnx.Param)):
        raise UserError(
            f"augment_… is set, but networks answer the probes of {settings['method']} once and "
            "are not moved then; leave it out, or choose a method whose probes are trained"
        )
    return model
