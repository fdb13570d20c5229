"""Search spaces for zoos of CNNs: what the networks of a zoo may be, and drawing from it.

A space is a config file with `get_space()`. A value is fixed, or a tuple of which one is drawn
evenly, or `{"uniform": (a, b)}`, `{"log_uniform": (a, b)}`, or `{"choice": (…), "shares": (…)}`.
"""

import importlib.util
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from probegen_jax.errors import UserError, in_file
from probegen_jax.factory.cnn.initial_weights import INITIALIZERS
from probegen_jax.factory.cnn.optimizers import OPTIMIZERS
from probegen_jax.networks.activations import ACTIVATIONS

PRESETS = ("small_cnn_zoo", "wild_park", "many_architectures", "digits_cnn")
PER_LAYER = ("channels", "kernel", "stride", "padding", "activation")

Space = dict[str, Any]
# Whether a value can be, and what it must be, in words.
_Rule = tuple[Callable[[Any], bool], str]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(low: float | int, high: float | int, what: str) -> _Rule:
    return (lambda v: _is_number(v) and low <= v <= high), what


def _whole(least: int) -> _Rule:
    return (lambda v: _is_number(v) and v == int(v) and v >= least), f"a whole number from {least}"


def _one_of(*names: str) -> _Rule:
    return (lambda v: v in names), f"one of {', '.join(names)}"


def _or(names: tuple[str, ...], other: _Rule, what: str) -> _Rule:
    return (lambda v: v in names or other[0](v)), what


def _tuple_of(each: _Rule, what: str) -> _Rule:
    return (lambda v: isinstance(v, tuple | list) and all(map(each[0], v))), what


_TINY, _BELOW_1, _HUGE = 1e-30, 1 - 1e-6, 1e30
_PADDING = "same, valid or a number of pixels"
_RESIDUAL = "none, not_adjacent (as the Wild Park) or the share of layers that have a link"
_CHECKPOINTS = "a tuple of epochs (or steps, where length is in steps) to keep besides the last"
# Of each key that is drawn: the default, and what a drawn value must be.
DRAWN: dict[str, tuple[Any, _Rule]] = {
    "layers": (3, _whole(1)),
    "channels": (16, _whole(1)),
    "kernel": (3, _whole(1)),
    "stride": (1, _whole(1)),
    "padding": ("same", _or(("same", "valid"), _whole(0), _PADDING)),
    "activation": ("relu", _one_of(*ACTIVATIONS)),
    "optimizer": ("adam", _one_of(*OPTIMIZERS)),
    "learning_rate": (1e-3, _number(_TINY, _HUGE, "above 0")),
    "momentum": (0.9, _number(0, _BELOW_1, "from 0 to below 1")),
    "w_init": ("torch", _one_of(*INITIALIZERS)),
    "init_std": (0.05, _number(0, _HUGE, "at least 0")),
    "init_scale": (1.0, _number(0, _HUGE, "at least 0")),
    "l2reg": (0.0, _number(0, _HUGE, "at least 0")),
    "dropout": (0.0, _number(0, _BELOW_1, "from 0 to below 1")),
    "train_fraction": (1.0, _number(_TINY, 1, "above 0 and at most 1")),
    "epochs": (5, _whole(0)),
    "steps": (0, _whole(0)),
}
_FIXED: dict[str, tuple[Any, _Rule]] = {
    "per_layer": ((), _tuple_of(_one_of(*PER_LAYER), f"a tuple of {', '.join(PER_LAYER)}")),
    "residual": ("none", _or(("none", "not_adjacent"), _number(0, 1, ""), _RESIDUAL)),
    "networks_per_architecture": (1, _whole(1)),
    "batch_size": (64, _whole(1)),
    "checkpoints": ((), _tuple_of(_whole(0), _CHECKPOINTS)),
    "train_images": (0, _whole(0)),
    "test_images": (0, _whole(0)),
    "pixels": ("signed", _one_of("signed", "standard")),
}


def read(where: str) -> Space:
    """The space of a preset's name, or in a file with `get_space()`, with every key checked.

    Raises:
      UserError: no such file, an unknown key, or a value that cannot be.
    """
    path = pathlib.Path(where).expanduser()
    if where in PRESETS:
        path = pathlib.Path(__file__).parent.parent / "spaces" / f"{where}.py"
    elif not path.is_file():
        raise UserError(
            f"no search space at {where!r}; give a file with get_space(), or {', '.join(PRESETS)}"
        )
    module_spec = importlib.util.spec_from_file_location("_probegen_space", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{where}: is not a Python file; a search space ends in .py")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        space = module.get_space()
    except Exception as error:  # the file is a program and can raise anything
        if isinstance(error, AttributeError) and error.name == "get_space":
            raise UserError(f"{where} has no function get_space()") from error
        told = in_file(error, where, path)
        raise UserError(told or f"{where}: {type(error).__name__}: {error}") from error
    return check(space, where)


def check(space: Any, where: str) -> Space:
    """Plain values of a space, with defaults for the keys that it leaves out.

    Raises:
      UserError: an unknown key, or a value that cannot be.
    """
    given = space.to_dict() if hasattr(space, "to_dict") else space
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: get_space() must return a ConfigDict")
    known = DRAWN | _FIXED
    for key in given:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}; known are {', '.join(sorted(known))}")
    plain = {key: given.get(key, default) for key, (default, _) in known.items()}
    for key, (_, (right, what)) in known.items():
        values = _ends(plain[key], f"{where}: {key}") if key in DRAWN else (plain[key],)
        for value in values:
            if not right(value):
                raise UserError(f"{where}: {key} is {value!r}; it must be {what}")
    if "epochs" in given and any(_ends(plain["steps"], "")):
        raise UserError(f"{where}: gives epochs and steps; give one of them")
    return plain


def _ends(value: Any, where: str) -> tuple[Any, ...]:
    """The values that can be drawn, or the two ends of their range."""
    if isinstance(value, tuple | list):
        if not value:
            raise UserError(f"{where} is empty; give at least one value")
        return tuple(value)
    if not isinstance(value, Mapping):
        return (value,)
    if set(value) == {"choice", "shares"}:
        values, shares = value["choice"], value["shares"]
        total = sum(shares) if all(map(_is_number, shares)) else math.nan
        if len(values) != len(shares) or not abs(total - 1) < 1e-6 or min(shares) < 0:
            raise UserError(f"{where}: needs a share for each choice, which add up to 1")
        return tuple(values)
    kind, ends = next(iter(value.items()), (None, None))
    if len(value) != 1 or kind not in ("uniform", "log_uniform"):
        raise UserError(
            f"{where} is {dict(value)!r}; give a value, a tuple of values, "
            '{"uniform": (low, high)}, {"log_uniform": (low, high)} or '
            '{"choice": (…), "shares": (…)}'
        )
    if not isinstance(ends, tuple | list) or len(ends) != 2 or not all(map(_is_number, ends)):
        raise UserError(f"{where}: {kind} needs two numbers, not {ends!r}")
    if ends[0] > ends[1] or (kind == "log_uniform" and ends[0] <= 0):
        raise UserError(f"{where}: {kind} from {ends[0]} to {ends[1]} is no range")
    return tuple(ends)


def draw(value: Any, rng: np.random.Generator) -> Any:
    """One value: drawn, or the only one there is."""
    if isinstance(value, Mapping):
        if "choice" in value:
            return value["choice"][int(rng.choice(len(value["choice"]), p=value["shares"]))]
        ((kind, (low, high)),) = value.items()
        if kind == "uniform":
            return float(rng.uniform(low, high))
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    if isinstance(value, tuple | list):
        return value[int(rng.integers(len(value)))]
    return value
