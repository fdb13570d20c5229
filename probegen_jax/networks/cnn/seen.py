"""What is seen of a CNN's maps while it runs, and what its layers are; see `networks.maps`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.cnn import forward
from probegen_jax.networks.cnn.layer import PER_NETWORK, ConvLayer, Size
from probegen_jax.networks.maps import Reduce, description, read


def describe(
    layers: tuple[ConvLayer, ...], sizes: Sequence[Size], activations: tuple[str, ...], weights: Any
) -> tuple[Float[Array, "B L 24"], Bool[Array, "B L"]]:
    """See `NetworkSpec.describe_layers`; `sizes` are those of the layers' outputs."""
    number, depth, names = weights["head"]["kernel"].shape[0], len(layers), list(ACTIVATIONS)
    places = jnp.array([names.index(name) for name in activations], jnp.int32)
    described = []
    for index, (layer, size) in enumerate(zip(layers, sizes, strict=True)):
        if layer.activation == PER_NETWORK:
            activation = places[weights["activation"]]
        else:
            activation = jnp.full(number, names.index(layer.activation), jnp.int32)
        channels = (layer.in_channels, layer.out_channels)
        described.append(
            description(index, depth, channels, size, layer.kernel, layer.stride, activation)
        )
    return jnp.stack(described, axis=1), jnp.ones((number, depth), bool)


def respond(
    layers: tuple[ConvLayer, ...],
    activations: tuple[str, ...],
    probes: Float[Array, "P H W C"],
    reduce: Reduce,
    networks: int | None,
) -> Callable[[Any, Float[Array, "L Q"]], tuple[Float[Array, "P R"], Float[Array, "P L K"]]]:
    """A function of one network's weights and queries: see `NetworkSpec.respond_with_maps`.

    On the way back the network is run once more: that costs less than to keep its maps. For
    `networks` see `forward.convolved`.
    """
    first = forward.patches(probes, layers[0])

    @jax.checkpoint
    def one(network: Any, queries_LxQ: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = []

        def see(index: int, before: jax.Array, after: jax.Array) -> None:
            found.append(read(reduce, before, after, queries_LxQ[index]))

        given = (layers, activations, network, first)
        responses = forward.run_on_patches(*given, networks=networks, see=see)
        return responses, jnp.stack(found, axis=1)

    return one
