"""The base class of generators of probes."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from probegen_jax.networks.contract import NetworkSpec


class Fixed(nnx.Variable):
    """State of a generator that training does not touch."""


class Generator(nnx.Module):
    """Makes the probes of one seed: called without arguments, it returns them (P, *probe_shape).

    A class of generators is called as `Class(num_probes, probe_shape, rngs=rngs, **settings)`,
    with the settings that its entry in `registry.METHODS` names; it draws from `rngs.params`. What
    training changes is an `nnx.Param`, and all else a `Fixed` variable.

    Attributes:
      platform: of the devices that it runs on, see `networks.contract.Options`; set once it is
        made, and never what decides on the probes.
    """

    platform = "cpu"

    @classmethod
    def needed_images(
        cls, settings: Mapping[str, Any], spec: NetworkSpec
    ) -> Float[np.ndarray, "N h w C"] | None:
        """Images to take probes from, read once for all seeds; None, as here, if it needs none.

        The class is then called with them as `images`. The settings are the whole config; the spec
        is the networks'.
        """
        del settings, spec
        return None


class NoProbes(Generator):
    """Of methods that do not probe: no probes at all."""

    def __init__(self, num_probes: int, probe_shape: tuple[int, ...], *, rngs: nnx.Rngs):
        del num_probes, rngs
        self.probe_shape = probe_shape

    def __call__(self) -> Float[Array, "0 ..."]:
        return jnp.zeros((0, *self.probe_shape))


class Given(Generator):
    """Probes that another generator has made."""

    def __init__(self, probes: Float[Array, "P ..."]):
        self.probes = Fixed(probes)

    def __call__(self) -> Float[Array, "P ..."]:
        return self.probes[...]
