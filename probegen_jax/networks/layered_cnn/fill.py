"""A CNN's layers with what their arrays tell: channels, kernels, groups."""

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.networks.layered_cnn.layer import SAME, Layer, Shape

State = Mapping[str, np.ndarray]
Groups = dict[str, dict[str, np.ndarray]]  # the arrays of each layer, by its key
NO_CONVOLUTION = "a CNN needs at least one convolution; its layers have none"
NORM = ("weight", "bias", "running_mean", "running_var")

# What layers are that no CNN here has, by the last part of the name of one of their arrays.
_FOREIGN = {
    **dict.fromkeys(("weight_g", "weight_v", "original0", "original1"), "weight normalisation"),
    **dict.fromkeys(("weight_orig", "weight_u", "weight_mask"), "spectral normalisation, pruning"),
    **dict.fromkeys(("in_proj_weight", "in_proj_bias"), "attention"),
    **dict.fromkeys(("weight_ih_l0", "weight_hh_l0"), "a recurrent layer"),
}
_BY_DIMENSIONS = {2: "linear", 3: "a Conv1d", 4: "conv", 5: "a Conv3d"}


def kind_of(array: str, state: State) -> str:
    """What layer an array is of: "conv", "linear", "norm", or what no CNN here has, in words."""
    key, _, last = array.rpartition(".")
    arrays = grouped(state)[key]
    for each in arrays:
        if each in _FOREIGN:
            return f"{_FOREIGN[each]}"
    if {"running_mean", "running_var"} & arrays.keys():
        return "norm"
    weight = arrays.get("weight")
    if weight is None:
        return f"a layer with an array {last!r}"
    if weight.ndim == 1:
        return "a normalisation without running statistics (LayerNorm, GroupNorm, BatchNorm)"
    return _BY_DIMENSIONS.get(weight.ndim, f"a layer with a weight of shape {weight.shape}")


def without_prefix(state: State) -> State:
    """Arrays without what all their names begin with, such as "model."."""
    parts = [name.split(".")[:-2] for name in state]  # a layer keeps a name
    together = itertools.takewhile(lambda each: len(set(each)) == 1, zip(*parts, strict=False))
    alike = len(list(together))
    return {".".join(name.split(".")[alike:]): array for name, array in state.items()}


def filled(layers: Sequence[Layer], state: State, image_shape: Shape) -> tuple[Layer, ...]:
    """The layers with what their arrays tell; a `UserError` where they do not fit together."""
    found, shape, used = [], with_channels(image_shape, layers, state), set()
    for each in layers:
        try:
            layer = with_arrays(each, state, shape)
        except KeyError as error:
            has = ", ".join(sorted(state)[:6]) or "nothing"
            raise UserError(
                f"has no {error.args[0]}, of its {each.called} (it has {has})"
            ) from error
        shape = layer.out_shape(shape)
        used |= {f"{key}.{last}" for key in (each.key, each.norm) if key for last in NORM}
        found.append(layer)
    for array in state:
        if array not in used:
            raise UserError(f"has {array}, {kind_of(array, state)}, of none of its layers")
    return tuple(found)


def with_channels(image_shape: Shape, layers: Sequence[Layer], state: State) -> Shape:
    """The shape of images; where their channels are not known, as the first convolution reads."""
    first = next((layer for layer in layers if layer.kind == "conv"), None)
    if first is None:
        raise UserError(NO_CONVOLUTION)
    weight = state.get(f"{first.key}.weight")
    if image_shape[2] or weight is None or weight.ndim < 2:
        return image_shape
    return (*image_shape[:2], weight.shape[1] * max(1, first.groups))


def with_arrays(layer: Layer, state: State, shape: Shape) -> Layer:
    """One layer, given something of a shape; a `KeyError` where it lacks an array."""
    if layer.kind == "norm":
        return dataclasses.replace(layer, inputs=shape[-1], outputs=shape[-1])
    if layer.kind not in ("conv", "linear"):
        return layer
    weight = state[f"{layer.key}.weight"]
    if weight.ndim != {"conv": 4, "linear": 2}[layer.kind]:
        raise UserError(f"{layer.called}: its weight has shape {weight.shape}")
    if layer.kind == "linear":
        return dataclasses.replace(layer, inputs=weight.shape[1], outputs=weight.shape[0])
    outputs, inputs, *kernel = weight.shape
    groups = shape[-1] // inputs if inputs and shape[-1] % inputs == 0 else 1
    if layer.groups not in (0, groups):
        raise UserError(
            f"{layer.called}: its groups are said to be {layer.groups}, but its weight of shape "
            f"{weight.shape} makes {groups} of {shape[-1]} channels"
        )
    padding = layer.padding
    if padding == SAME:
        reach = [step * (side - 1) for step, side in zip(layer.dilation, kernel, strict=True)]
        if any(each % 2 for each in reach) or layer.stride != (1, 1):
            raise UserError(f"{layer.called}: padding 'same' needs odd kernels and stride 1")
        padding = (reach[0] // 2, reach[1] // 2)
    return dataclasses.replace(
        layer,
        inputs=inputs * groups,
        outputs=outputs,
        kernel=tuple(kernel),
        padding=padding,
        groups=groups,
    )


def grouped(state: State) -> Groups:
    """The arrays of each layer, layers in their order there."""
    groups: Groups = collections.defaultdict(dict)
    for name, array in state.items():
        key, _, last = name.rpartition(".")
        groups[key][last] = array
    return groups
