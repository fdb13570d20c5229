"""The layers of a CNN from the names and shapes of its arrays, where these tell them.

Arrays tell which layers there are, their channels and kernels. They do not tell strides, paddings,
activations and pooling, which must be said, nor, for certain, the order of layers: several are
tried, and the one that fits is taken.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.networks.layered_cnn import fill
from probegen_jax.networks.layered_cnn.fill import Groups, State
from probegen_jax.networks.layered_cnn.layer import SAME, Layer, Shape, shown
from probegen_jax.networks.layered_cnn.said import Said, pool_of


def layers(state: State, said: Said, image_shape: Shape) -> tuple[Layer, ...]:
    """The layers in order.

    Raises:
      UserError: an array of a layer that no CNN here has; or names in no order that fits, or in
        several.
    """
    groups = fill.grouped(state)
    kinds = {key: fill.kind_of(f"{key}.{next(iter(of))}", state) for key, of in groups.items()}
    for key, kind in kinds.items():
        if kind not in ("conv", "linear", "norm"):
            raise UserError(
                f"has {key}.{next(iter(groups[key]))}, of {kind}, which is not supported"
            )
    fitting: dict[tuple[str, ...], tuple[Layer, ...]] = {}
    faults: dict[str, str] = {}
    for title, ordered in _ORDERS.items():
        order = tuple(ordered(kinds))
        if order in fitting or (fitting and title == _BY_NUMBER):
            continue
        try:
            found = _in_order(order, kinds, groups, said, image_shape)
            fitting[order] = fill.filled(found, state, image_shape)
        except UserError as error:
            faults.setdefault(str(error), title)
            continue
        if title == _AS_STORED:
            break
    if len(fitting) > 1:
        told = " and ".join(", ".join(order[:6]) for order in fitting)
        raise UserError(f"its layers fit in several orders: {told}")
    if not fitting:
        told = "; ".join(f"{title}: {fault}" for fault, title in faults.items())
        raise UserError(f"its layers fit in no order that was tried ({told})")
    return next(iter(fitting.values()))


def _natural(key: str) -> list[Any]:
    parts = re.split(r"(\d+)", key)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _by_kind(kinds: Mapping[str, str]) -> list[str]:
    """Convolutions by their numbers, each with the norm of that number, then linear layers."""

    def number(key: str) -> list[int]:
        return [int(digits) for digits in re.findall(r"\d+", key)]

    place = ("conv", "norm", "linear").index
    return sorted(
        kinds, key=lambda key: (kinds[key] == "linear", number(key), place(kinds[key]), key)
    )


_AS_STORED, _BY_NUMBER = "as they are stored", "by their names"
_ORDERS: dict[str, Callable[[Mapping[str, str]], Sequence[str]]] = {
    _AS_STORED: list,
    _BY_NUMBER: lambda kinds: sorted(kinds, key=_natural),
    "convolutions, each with the norm of its number, then linear layers": _by_kind,
}


def _in_order(
    order: Sequence[str],
    kinds: Mapping[str, str],
    groups: Groups,
    said: Said,
    image_shape: Shape,
) -> tuple[Layer, ...]:
    """All layers, those without arrays included, of a network with its layers in this order."""
    blocks: list[list[str]] = []  # of a convolution or a linear layer, and the norm after it
    for key in order:
        if kinds[key] != "norm":
            blocks.append([key])
        elif not blocks or len(blocks[-1]) > 1:
            raise UserError(f"the norm {key!r} does not follow a convolution or linear layer")
        else:
            _refuse_gap(blocks[-1][0], key)
            blocks[-1].append(key)
    of = [kinds[block[0]] for block in blocks]
    convolutions, hidden = of.count("conv"), len(of) - (of[-1:] == ["linear"])
    if of != sorted(of) or not convolutions:  # "conv" comes before "linear"
        raise UserError(
            "a convolution follows a linear layer" if convolutions else "no convolution"
        )
    stride, padding = (_each(said, name, convolutions) for name in ("stride", "padding"))
    pool, activation = _each(said, "pool", convolutions), _each(said, "activation", hidden)
    found: list[Layer] = []
    state = {
        f"{key}.{last}": array for key, of_key in groups.items() for last, array in of_key.items()
    }
    for place, (key, *norm) in enumerate(blocks):
        kind, folded = of[place], norm[0] if norm else None
        if kind == "conv":
            pad = SAME if padding[place] < 0 else (padding[place],) * 2
            found.append(
                Layer("conv", key, folded, stride=(stride[place],) * 2, padding=pad, groups=0)
            )
        else:
            if place == convolutions:
                found.append(_flat(found, state, key, groups[key]["weight"], image_shape))
            found.append(Layer("linear", key, folded))
        if place < hidden and activation[place] != "none":
            found.append(Layer("activation", activation=activation[place]))
        if kind == "conv" and (pooling := pool_of(pool[place])) is not None:
            found.append(pooling)
    if of[-1] == "conv":  # classes are maps, averaged
        found.append(Layer("global_pool"))
    return tuple(found)


def _flat(
    before: Sequence[Layer], state: State, key: str, weight: np.ndarray, image_shape: Shape
) -> Layer:
    """What makes maps into the vector that the first linear layer reads."""
    shape = fill.with_channels(image_shape, before, state)
    for layer in before:
        shape = fill.with_arrays(layer, state, shape).out_shape(shape)
    if weight.shape[1] == shape[2]:
        return Layer("global_pool")
    if weight.shape[1] == int(np.prod(shape)):
        return Layer("flatten")
    raise UserError(
        f"linear {key!r}: reads {weight.shape[1]:,} values, but is given {shown(shape)}, which are "
        f"{shape[2]:,} by global pooling and {int(np.prod(shape)):,} flat"
    )


def _each(said: Said, name: str, number: int) -> tuple[Any, ...]:
    values = getattr(said, name)
    if len(values) not in (1, number):
        raise UserError(
            f"{name} is said {len(values)} times, of {number} layers; say it once or of each"
        )
    return values * number if len(values) == 1 else values


def _refuse_gap(layer: str, norm: str) -> None:
    """A layer without arrays, such as an activation, may lie between two of a Sequential."""
    (of, place), (of_norm, place_norm) = (
        re.fullmatch(r"(.*?)(\d*)", x).groups() for x in (layer, norm)
    )
    if of == of_norm and of[-1:] in ("", ".") and int(place_norm or 0) > int(place or 0) + 1:
        raise UserError(f"something without arrays lies between {layer!r} and the norm {norm!r}")
