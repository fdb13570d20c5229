"""A readout of hidden responses: what neurons compute on the way, beside what networks answer.

The idea and the sizes are those of HiddenProbe (yonatansverdlov/HiddenProbe, 2026).
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from probegen_jax.errors import UserError
from probegen_jax.method.dropout import Noise
from probegen_jax.method.layers import by_rows, dense, in_blocks
from probegen_jax.method.readouts.base import Readout, Sizes
from probegen_jax.method.readouts.maps import HiddenMaps
from probegen_jax.method.readouts.outputs import Head
from probegen_jax.method.readouts.scalar import FEATURES, ScalarEncoder
from probegen_jax.networks.contract import NetworkSpec

_TOKEN_WIDTH, _TOKEN = 256, 4
# Above so many tokens, a CPU makes them in blocks, see `in_blocks`; fewer keep several cores busier
# at once.
_AT_ONCE, _BLOCK = 4096, 512


class Hidden(Readout):
    """Reads hidden responses and outputs of networks with taps.

    Of each probe and hidden layer, an encoder of that layer turns every neuron's response into 2
    values, which are averaged over neurons. With the outputs they go through an MLP to a token of 4
    values, the same MLP for all probes; the tokens of all probes go through a `Head`.
    """

    in_turn_on_cpu: ClassVar[bool] = True

    def __init__(self, tap_sizes: tuple[int, ...], outputs: int, sizes: Sizes, *, rngs: nnx.Rngs):
        self.tap_sizes = tap_sizes
        self.encoders = nnx.List(ScalarEncoder(rngs=rngs) for _ in tap_sizes)
        values = len(tap_sizes) * FEATURES + outputs
        self.token = nnx.List(
            [dense(values, _TOKEN_WIDTH, rngs=rngs), dense(_TOKEN_WIDTH, _TOKEN, rngs=rngs)]
        )
        self.head = Head.of(sizes.num_probes * _TOKEN, sizes, rngs=rngs)

    @classmethod
    def for_networks(cls, spec: NetworkSpec) -> type[Readout]:
        return HiddenMaps if spec.has_maps else cls

    @classmethod
    def make(cls, spec: NetworkSpec, sizes: Sizes, *, rngs: nnx.Rngs) -> "Hidden":
        if not spec.tap_sizes:
            raise UserError(
                f"readout is 'hidden', but networks like {type(spec).__name__} give no hidden "
                "responses; use --config.readout=outputs"
            )
        return cls(spec.tap_sizes, spec.response_dim, sizes, rngs=rngs)

    @staticmethod
    def answers(
        spec: NetworkSpec, weights: Any, probes: Float[Array, "P D"]
    ) -> Float[Array, "B P A"]:
        """Hidden responses of each layer in turn, then the outputs."""
        return jnp.concatenate(spec.respond_with_taps(weights, probes), axis=-1)

    @staticmethod
    def last_layer(params: Mapping[str, Any]) -> tuple[str | int, ...]:
        return "head", *Head.last_layer(params["head"])

    def __call__(
        self, answers: Float[Array, "B P A"], noise: Noise | None = None
    ) -> Float[Array, "B O"]:
        ends = [sum(self.tap_sizes[: n + 1]) for n in range(len(self.tap_sizes))]
        *taps, outputs = jnp.split(answers, ends, axis=-1)
        encoded = [encode(tap) for encode, tap in zip(self.encoders, taps, strict=True)]
        read = jnp.concatenate([*encoded, outputs], axis=-1)
        if self.platform == "cpu" and math.prod(read.shape[:2]) > _AT_ONCE:
            return self.head(in_blocks(self.to_tokens, read, _BLOCK), noise)
        return self.head(self.to_tokens(read), noise)

    def to_tokens(self, read: Float[Array, "B P I"]) -> Float[Array, "B P T"]:
        """Of each network and probe, from what is read of it."""
        widen, narrow = self.token
        return by_rows(narrow, jax.nn.relu(by_rows(widen, read)))
