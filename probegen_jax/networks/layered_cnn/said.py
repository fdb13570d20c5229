"""What is said of a CNN besides its arrays: its layers, or what its arrays do not tell of them."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from probegen_jax.errors import UserError
from probegen_jax.networks.layered_cnn.layer import ACTIVATIONS, SAME, Layer, Pair

BY_LAYER = ("stride", "padding", "activation", "pool")
_FACTS = ("image_size", "mean", "std")
_TEXTS = ("global_pool", "global_max_pool", "flatten", "dropout")
# What else an entry of each kind may say.
_MORE: dict[str, tuple[str, ...]] = {
    "conv": ("stride", "padding", "dilation", "groups"),
    "linear": (),
    "batch_norm": ("eps",),
    "max_pool": ("stride", "padding", "dilation"),
    "avg_pool": ("stride", "padding"),
    "adaptive_avg_pool": (),
    "leaky_relu": (),
}
_POOL = re.compile(r"(max|avg)(\d{1,4})(?:/(\d{1,4}))?")


@dataclasses.dataclass(frozen=True)
class Said:
    """What is said of networks; either all `layers`, or the rest, from which they are inferred.

    Attributes:
      layers: in order, without what their arrays tell; None where they are to be inferred.
      stride: of each convolution, or one for all.
      padding: likewise; −1 is what keeps the image's size.
      activation: after each convolution and each linear layer but the last, or one for all.
      pool: after each convolution, or one for all: "none", "max2", or "avg3/2", an average over
        3×3 pixels with stride 2.
      image_size: height and width of the images.
      mean: of each channel of these, in [0, 1], as `std` is; see `Pixels`.
    """

    layers: tuple[Layer, ...] | None = None
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    activation: tuple[str, ...] = ()
    pool: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def missing(self) -> list[str]:
        """What must still be said for layers to be inferred."""
        return [name for name in BY_LAYER if not getattr(self, name)]

    @classmethod
    def parse(cls, content: Any) -> "Said":
        """What a JSON says, or settings as a dict, of which those that are None say nothing.

        Raises:
          UserError: what in it cannot be.
        """
        if not isinstance(content, Mapping):
            raise UserError(f"is a {type(content).__name__}, not an object with 'layers'")
        known = ("layers", *BY_LAYER, *_FACTS)
        for name in content:
            if name not in known:
                raise UserError(f"has an unknown {name!r:.80}; known are {', '.join(known)}")
        given = {name: value for name, value in content.items() if value is not None}
        found: dict[str, Any] = {}
        if "layers" in given:
            for name in BY_LAYER:
                if name in given:
                    raise UserError(f"says 'layers' and {name!r}; give only one of the two")
            found["layers"] = _layers(given["layers"])
        for name in set(BY_LAYER) & given.keys():
            values = given[name].split(",") if isinstance(given[name], str) else given[name]
            values = values if isinstance(values, list | tuple) else [values]
            found[name] = tuple(_OF_LAYER[name](value, name) for value in values)
        if "image_size" in given:
            found["image_size"] = _pair(given["image_size"], "image_size", 1)
        for name in {"mean", "std"} & given.keys():
            values = given[name] if isinstance(given[name], list | tuple) else [given[name]]
            if not all(type(value) in (int, float) for value in values):
                raise UserError(f"{name} is {given[name]!r:.80}; it should be a number a channel")
            found[name] = tuple(map(float, values))
        return cls(**found)


def pool_of(text: str) -> Layer | None:
    """The pooling that "max2" or "avg3/2" stand for; None for "none"."""
    match = _POOL.fullmatch(text)
    if match is None:
        return None
    side = int(match[2])
    step = int(match[3] or side)
    return Layer(f"{match[1]}_pool", kernel=(side, side), stride=(step, step))


def _layers(entries: Any) -> tuple[Layer, ...]:
    if not isinstance(entries, list | tuple) or not entries:
        raise UserError(f"layers is {entries!r:.80}; it should be a list of layers, in order")
    layers: list[Layer] = []
    for number, entry in enumerate(entries):
        try:
            layer = _layer(entry)
        except UserError as error:
            raise UserError(f"layers[{number}] {error}") from error
        before = layers[-1] if layers else None
        foldable = before is not None and before.kind in ("conv", "linear") and not before.norm
        if layer is not None and layer.kind == "norm" and foldable:
            layers[-1] = dataclasses.replace(before, norm=layer.key, epsilon=layer.epsilon)
        elif layer is not None:
            layers.append(layer)
    keys = [key for layer in layers for key in (layer.key, layer.norm) if key]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"layers name {key!r} twice; each layer has arrays of its own")
    return tuple(layers)


def _layer(entry: Any) -> Layer | None:
    """The layer of an entry; None for one without effect."""
    if isinstance(entry, str) and entry in _TEXTS:
        return None if entry == "dropout" else Layer(entry)
    if isinstance(entry, str) and entry in ACTIVATIONS:
        return Layer("activation", activation=entry)
    kinds = [kind for kind in _MORE if isinstance(entry, Mapping) and kind in entry]
    if len(kinds) != 1:
        raise UserError(
            f"is {entry!r:.120}; it should be one of {', '.join((*_TEXTS, *ACTIVATIONS))}, or an "
            f"object with one of {', '.join(_MORE)}"
        )
    (kind,) = kinds
    for name in entry:
        if name not in (kind, *_MORE[kind]):
            more = ", ".join(_MORE[kind]) or "nothing else"
            raise UserError(f"is a {kind} with an unknown {name!r:.80}; it may have {more}")
    value = entry[kind]
    if kind in ("conv", "linear", "batch_norm"):
        if not isinstance(value, str) or not value:
            raise UserError(f"is a {kind} of {value!r:.80}; give the key of its arrays")
        if kind == "batch_norm":
            return Layer("norm", value, epsilon=_number(entry.get("eps", 1e-5), "eps"))
        if kind == "linear":
            return Layer("linear", value)
        return Layer(
            "conv", value, **_steps(entry), groups=_whole(entry.get("groups", 0), "groups", 0)
        )
    if kind == "leaky_relu":
        return Layer("activation", activation=kind, slope=_number(value, kind))
    side = _pair(value, kind, 1)
    if kind == "adaptive_avg_pool":
        return Layer("adaptive_pool", kernel=side) if side != (1, 1) else Layer("global_pool")
    layer = Layer(kind, kernel=side, **({"stride": side} | _steps(entry)))
    if any(2 * pad > side for pad, side in zip(layer.padding, layer.kernel, strict=True)):
        raise UserError(f"is a {kind} whose padding is more than half of its kernel")
    return layer


def _steps(entry: Mapping[str, Any]) -> dict[str, Pair]:
    found = {}
    for name, least in (("stride", 1), ("padding", 0), ("dilation", 1)):
        if name in entry:
            same = name == "padding" and entry[name] == "same" and "conv" in entry
            found[name] = SAME if same else _pair(entry[name], name, least)
    return found


def _pair(value: Any, name: str, least: int) -> Pair:
    """Rows and columns: two numbers, or one for both."""
    both = value if isinstance(value, list | tuple) else [value, value]
    if len(both) != 2:
        raise UserError(f"{name} is {value!r:.80}; it should be a number, or one for each axis")
    return _whole(both[0], name, least), _whole(both[1], name, least)


def _whole(value: Any, name: str, least: int) -> int:
    text = value.strip() if isinstance(value, str) else value
    number = int(text) if isinstance(text, str) and re.fullmatch(r"\d{1,9}", text) else text
    if type(number) is not int or not least <= number < 2**31:
        raise UserError(f"{name} is {value!r:.80}; it should be a whole number, at least {least}")
    return number


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e9:
        raise UserError(f"{name} is {value!r:.80}; it should be a number, at least 0")
    return float(value)


def _padding(value: Any, name: str) -> int:
    return -1 if value == "same" else _whole(value, name, 0)


def _activation(value: Any, name: str) -> str:
    text = value.strip() if isinstance(value, str) else value
    if text not in ACTIVATIONS:
        raise UserError(f"{name} is {value!r:.80}; known are {', '.join(ACTIVATIONS)}")
    return text


def _pooling(value: Any, name: str) -> str:
    text = value.strip() if isinstance(value, str) else value
    layer = pool_of(text) if isinstance(text, str) else None
    if text != "none" and (layer is None or min(*layer.kernel, *layer.stride) < 1):
        raise UserError(
            f"{name} is {value!r:.80}; it should be none, max2 (2×2 pixels), avg2, or max3/2 (3×3 "
            "with stride 2)"
        )
    return text


_OF_LAYER = {
    "stride": lambda value, name: _whole(value, name, 1),
    "padding": _padding,
    "activation": _activation,
    "pool": _pooling,
}
