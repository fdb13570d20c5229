"""What is kept of the maps of convolutions, the images between layers: summaries of fixed size.

Maps of a batch would not fit in memory, and their sizes differ by layer and network. A map is
summarised by its mean, standard deviation and maximum in 4×4 cells, and by 7 statistics of the
whole, both before the activation (and after a residual link) and behind it. The idea and the choice
of statistics are HiddenProbe's (yonatansverdlov/HiddenProbe, 2026).
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.map_summaries import summaries

# From the summaries of one layer's C channels, (P, 6, 16, C) of cells and (P, 14, C) of whole maps,
# and a query (Q,), to K values of each probe, (P, K). Where C has room for more channels than the
# layer has, a mask (C,) says which are there; else it is None.
Reduce = Callable[[jax.Array, jax.Array, jax.Array | None, jax.Array], jax.Array]

DESCRIPTION = 16 + len(ACTIVATIONS)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is to be read of the maps of one network; see `WithMaps.respond_with_maps`."""

    reduce: Reduce
    queries: Float[Array, "L Q"]


class WithMaps(abc.ABC):
    """What a `NetworkSpec` of convolutions can be asked, too."""

    has_maps: ClassVar[bool] = True

    @abc.abstractmethod
    def describe_layers(self, weights: Any) -> tuple[Float[Array, "B L 24"], Bool[Array, "B L"]]:
        """What the layers of maps of every network are, see `description`.

        The flags say which layers a network has.
        """

    @abc.abstractmethod
    def respond_with_maps(
        self,
        weights: Any,
        probes: Float[Array, "P ..."],
        reduce: Reduce,
        queries: Float[Array, "B L Q"],
    ) -> tuple[Float[Array, "B P R"], Float[Array, "B P L K"]]:
        """Every network on every probe, and its maps; differentiable in probes and queries.

        Args:
          reduce: see `Reduce`; the same function in every call, as compilations know it.
          queries: for each network and layer, what `reduce` is given.

        Returns:
          The responses, and what `reduce` makes of the maps of each layer.
        """


class MapsInOnePass(WithMaps):
    """A family in which one function gives responses, and maps if they are asked for."""

    @abc.abstractmethod
    def _answers(
        self, reduce: Reduce | None, weights: Any, probes: jax.Array, queries: Any
    ) -> tuple[Float[Array, "B P R"], Float[Array, "B P L K"] | None]:
        """As `respond_with_maps`; with neither `reduce` nor queries, only the responses."""

    def respond(self, weights: Any, probes: Float[Array, "P H W C"]) -> Float[Array, "B P R"]:
        """Every network of a batch on every probe; meant to be differentiated in the probes."""
        return self._answers(None, weights, probes, None)[0]

    def respond_with_maps(
        self,
        weights: Any,
        probes: Float[Array, "P H W C"],
        reduce: Reduce,
        queries: Float[Array, "B L Q"],
    ) -> tuple[Float[Array, "B P R"], Float[Array, "B P L K"]]:
        """See `WithMaps`."""
        return self._answers(reduce, weights, probes, queries)


def read(
    reduce: Reduce, before: Float[Array, "P h w C"], after: Float[Array, "P h w C"], query: Any
) -> Float[Array, "P K"]:
    """What is read of a layer's maps before and after its activation."""
    return reduce(*summaries(before, after), None, query)


def description(
    index: Any,
    depth: Any,
    channels: tuple[Any, Any],
    size: tuple[Any, Any],
    kernel: Any,
    stride: Any,
    activation: Any,
    dilation: Any = 1,
    groups: Any = 1,
) -> Float[Array, "*B 24"]:
    """A layer of maps in numbers, for readouts; each argument is a number or an array of them.

    Args:
      index: of the layer among those of its network, which are `depth`.
      channels: in and out; `size`: height and width of the output, in pixels.
      kernel: side of the kernel, in pixels; `stride` and `dilation` likewise.
      activation: place in `ACTIVATIONS`.
    """
    index, activation = (jnp.asarray(each, jnp.int32) for each in (index, activation))
    last = jnp.asarray(depth, jnp.int32) - 1
    whole = jnp.maximum(last, 1).astype(jnp.float32)
    first, final = index == 0, index == last
    numbers = [
        index.astype(jnp.float32) / whole,
        (last - index).astype(jnp.float32) / whole,
        *(jnp.log2(jnp.asarray(each, jnp.float32)) for each in (*channels, *size)),
        *[kernel] * 2,
        *[stride] * 2,
        *[dilation] * 2,
        groups,
        first,
        ~first & ~final,
        final,
        *(activation == place for place in range(len(ACTIVATIONS))),
    ]
    shape = jnp.broadcast_shapes(*(jnp.shape(each) for each in numbers))
    return jnp.stack(
        [jnp.broadcast_to(jnp.asarray(each, jnp.float32), shape) for each in numbers], axis=-1
    )
