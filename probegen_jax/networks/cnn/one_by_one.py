"""CNNs of one architecture, one network after the other on a CPU, forwards and back by hand.

Automatic differentiation would keep, or compute again, every patch and pre-activation. The way
back needs less: for the slopes of the activations, the outputs of all layers but the first, which
is cheap to run again; and, as the weights are data, only the gradients of the images.

XLA's convolutions use all cores while they have few output channels; elsewhere matmuls over patches
do better. Gradients come in *blocks*: the stride² pixels of a layer's input that lie under one step
of its kernel are computed side by side, as if they were channels, and the first layer's are never
put back in rows: its patches are laid out in blocks instead, once for all networks.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probegen_jax.networks.activations import ACTIVATIONS, SLOPES
from probegen_jax.networks.apart import apart
from probegen_jax.networks.cnn.forward import head, patches
from probegen_jax.networks.cnn.layer import PER_NETWORK, ConvLayer
from probegen_jax.networks.cnn.taps import back, spread
from probegen_jax.networks.maps import Reduce, read

Layers = tuple[ConvLayer, ...]
Names = tuple[str, ...]

# A first layer with so few values under its kernel is sums of products that fuse with the
# activation; with more, a matmul.
_FEW_TAPS = 32


def suits(layers: Layers, activations: Names) -> bool:
    """Whether `respond` can run these networks: no residual links, slopes known from outputs."""
    names = {*activations, *(layer.activation for layer in layers)} - {PER_NETWORK}
    return names <= SLOPES.keys() and all(layer.residual < 0 for layer in layers)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def respond(
    layers: Layers,
    activations: Names,
    reduce: Reduce | None,
    weights: Any,
    probes: Float[Array, "P H W C"],
    queries: Float[Array, "B L Q"] | None,
) -> tuple[Float[Array, "B P R"], Float[Array, "B P L K"] | None]:
    """Responses of stacked networks that `suits` to every probe, and what is read of maps if asked.

    Differentiable in the probes and the queries only; see `WithMaps.respond_with_maps`.
    """
    return _forward(layers, activations, reduce, weights, probes, queries)[0]


def _forward(layers, activations, reduce, weights, probes, queries):
    probes = jnp.asarray(probes)
    first_PxhxwxV = patches(probes, layers[0])

    def network(weights_queries):
        weights, queries_LxQ = weights_queries
        kept: list[jax.Array] = []
        found: list[jax.Array] = []
        if reduce is None:
            y = _first_layer(layers[0], activations, weights, first_PxhxwxV)
        else:
            before = apart(_sums)(weights, first_PxhxwxV)
            before = before.reshape(*first_PxhxwxV.shape[:-1], -1)
            y = layers[0].by_activation(activations, weights, ACTIVATIONS.__getitem__, before)
            found.append(read(reduce, before, y, queries_LxQ[0]))
        for index, (layer, affine) in enumerate(zip(layers, weights["layers"], strict=True)):
            if index == 0:
                continue
            x = layer.convolve(y, affine["kernel"])
            # Flat: runs of one image, which vector units fill better than its few channels.
            flat = x.reshape(x.shape[0], -1)
            bias = jnp.tile(affine["bias"], x.shape[1] * x.shape[2]).reshape(1, -1)
            y = layer.by_activation(activations, weights, _biased, flat, bias).reshape(x.shape)
            if reduce is None:
                kept.append(y)
            else:
                kept.append((flat + bias).reshape(x.shape))
                found.append(read(reduce, kept[-1], y, queries_LxQ[index]))
        found = None if reduce is None else jnp.stack(found, axis=1)
        return (head(weights, y), found), tuple(kept)

    answers, kept = jax.lax.map(network, (weights, queries))
    return answers, (weights, probes, queries, kept)


def _backward(layers, activations, reduce, kept, g):
    weights, probes, queries, outputs = kept
    sizes = [layers[0].out_sizes(probes.shape[1:3]), *(y.shape[2:4] for y in outputs)]
    # Maps are read in rows.
    block = layers[1].stride if len(layers) > 1 and reduce is None else 1
    first, back_to_probes = jax.vjp(lambda x: _in_blocks(patches(x, layers[0]), block), probes)

    def network(total_VxQ, one):
        weights, queries_LxQ, outputs, (g_PxR, g_found) = one
        g_queries = []

        def through(index, g, kept):
            """From a layer's output to before its activation; in between, maps may be read."""
            layer = layers[index]
            if reduce is None:
                return g * _slope(layer, activations, weights, kept)
            y = layer.by_activation(activations, weights, ACTIVATIONS.__getitem__, kept)
            reading = functools.partial(read, reduce)
            _, back = jax.vjp(reading, kept, y, queries_LxQ[index])
            g_before, g_y, g_query = back(g_found[:, index])
            g_queries.insert(0, g_query)
            return (g + g_y) * _slope(layer, activations, weights, y) + g_before

        last = sizes[-1]
        g = (g_PxR @ weights["head"]["kernel"].T) / np.float32(last[0] * last[1])
        g = jnp.broadcast_to(g[:, None, None], (g.shape[0], *last, g.shape[1]))
        for index in range(len(layers) - 1, 0, -1):
            g = through(index, g, outputs[index - 1])
            g = _to_input(layers[index], weights["layers"][index]["kernel"], g, sizes[index - 1])
            if index > 1 or reduce is not None:
                g = _in_rows(g, layers[index].stride, sizes[index - 1])
        kernel = weights["layers"][0]["kernel"]
        if reduce is None:
            g_QxO = g.reshape(-1, kernel.shape[-1])
            g_QxO = _first_layer_back(layers[0], activations, weights, first, g_QxO)
        else:
            before = apart(_sums)(weights, first).reshape(g.shape)
            g_QxO = through(0, g, before).reshape(-1, g.shape[-1])
        kernel_VxO = kernel.reshape(-1, kernel.shape[-1])
        return total_VxQ + kernel_VxO @ g_QxO.T, None if reduce is None else jnp.stack(g_queries)

    taps = first.shape[-1]
    total_VxQ = jnp.zeros((taps, first.size // taps), jnp.float32)
    total_VxQ, g_queries = jax.lax.scan(network, total_VxQ, (weights, queries, outputs, g))
    return None, back_to_probes(total_VxQ.T.reshape(first.shape))[0], g_queries


respond.defvjp(_forward, _backward)


def _biased(name):
    return lambda x, bias: ACTIVATIONS[name](x + bias)


def _slope(layer, activations, weights, y):
    """The slope of the layer's activation where its output is `y`."""
    if layer.activation != PER_NETWORK:
        return SLOPES[layer.activation](y)
    slope = SLOPES[activations[0]](y)
    for place, name in enumerate(activations[1:], 1):
        slope = jnp.where(weights["activation"] == place, SLOPES[name](y), slope)
    return slope


def _sums(weights, first):
    """The first layer before its activation, (Q, O), from its patches (..., V)."""
    affine, taps = weights["layers"][0], first.shape[-1]
    first_QxV = first.reshape(-1, taps)
    kernel_VxO = affine["kernel"].reshape(taps, -1)
    if taps > _FEW_TAPS:
        sums = first_QxV @ kernel_VxO
    else:
        terms = (first_QxV[:, tap, None] * kernel_VxO[tap][None] for tap in range(taps))
        sums = functools.reduce(jnp.add, terms)
    return sums + affine["bias"].reshape(1, -1)


def _first_layer(layer, activations, weights, first):
    """The first layer's output (..., O) from its patches (..., V)."""

    def activate(name):
        return lambda first: ACTIVATIONS[name](_sums(weights, first))

    y_QxO = layer.by_activation(activations, weights, activate, first)
    return y_QxO.reshape(*first.shape[:-1], -1)


def _first_layer_back(layer, activations, weights, first, g_QxO):
    """The gradient before the first layer's activation, which runs once more for its slope."""

    def times_slope(name):
        return lambda first, g: g * SLOPES[name](ACTIVATIONS[name](_sums(weights, first)))

    return layer.by_activation(activations, weights, times_slope, first, g_QxO)


def _in_blocks(x: Float[Array, "P H W C"], block: int) -> Float[Array, "P h w b b C"]:
    """Pixels by blocks; zeros fill the last ones."""
    number, height, width, channels = x.shape
    down, right = (-(-side // block) for side in (height, width))
    x = jnp.pad(x, ((0, 0), (0, down * block - height), (0, right * block - width), (0, 0)))
    return x.reshape(number, down, block, right, block, channels).transpose(0, 1, 3, 2, 4, 5)


def _in_rows(x: Float[Array, "P h w bbC"], block: int, size: tuple[int, int]) -> jax.Array:
    """The inverse of `_in_blocks`."""
    number, down, right, _ = x.shape
    x = x.reshape(number, down, right, block, block, -1).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(number, down * block, right * block, -1)
    return x[:, : size[0], : size[1]]


def _to_input(
    layer: ConvLayer, kernel: Float[Array, "k k I O"], g: jax.Array, size: tuple[int, int]
) -> Float[Array, "P h w ssI"]:
    """The gradient of a layer's input, in blocks of stride².

    Which rows of the kernel connect a block and an output depends on their distance alone, see
    `taps.back`: so this is a convolution with stride 1.
    """
    stride = layer.stride
    first, last, taps = back(layer.kernel, stride, layer.padding, stride)
    width = len(taps)
    kernel = spread(kernel.swapaxes(2, 3), taps, taps).reshape(width**2 * g.shape[-1], -1)
    down, right = (-(-length // stride) for length in size)
    pads = [
        (-first, max(blocks + last - given, 0))
        for blocks, given in zip((down, right), g.shape[1:3], strict=True)
    ]
    g = jnp.pad(g, ((0, 0), *pads, (0, 0)))
    windows = [g[:, u : u + down, v : v + right] for u in range(width) for v in range(width)]
    return jnp.concatenate(windows, axis=-1) @ kernel
