"""One network's arrays and architecture, found in whatever a training has put into a file.

Tensors are known by what they can do, so that nothing here needs torch.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from probegen_jax.errors import BadNetworkError
from probegen_jax.zoo.files.arrays import Notes, in_float32, is_array, whole_number

State = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]

_DEEPEST = 4  # containers within containers
_SHOWN = 6
_WEIGHTS = ("weight", "bias")
# Arrays of points at which a network is looked at, which are no part of it.
_COORDINATES = ("grid", "mgrid", "coords", "coordinates")
# Layers that no network here has, by the last part of an array's name.
_FOREIGN = (
    dict.fromkeys(("running_mean", "running_var"), "a BatchNorm")
    | dict.fromkeys(("weight_g", "weight_v", "original0", "original1"), "weight normalisation")
    | dict.fromkeys(("weight_orig", "weight_u", "weight_mask"), "spectral normalisation or pruning")
)


@dataclasses.dataclass(frozen=True)
class Want:
    """Which network is looked for.

    Attributes:
      shapes: of its arrays, by its config; None where they are not known beforehand.
      key: what it lies under, where a file holds several.
      exact: whether other types than float32 are refused, not converted.
      others: whether arrays that are not among the shapes are passed on, of whatever layer.
    """

    shapes: Callable[[Mapping[str, Any] | None], Shapes | None] = lambda config: None
    key: str | None = None
    notes: Notes = dataclasses.field(default_factory=Notes)
    exact: bool = False
    others: bool = False


@dataclasses.dataclass(frozen=True)
class InrFile:
    """An INR as stored: arrays in torch's layout, (out, in), and the class that some zoos store."""

    state: State
    label: int | None


@dataclasses.dataclass(frozen=True)
class CnnFile:
    """A CNN as stored: arrays in torch's layout, (out, in, k, k), and the architecture."""

    state: State
    config: dict[str, Any]
    score: float | None = None
    iteration: int | None = None


def inr(loaded: Any, network: str, want: Want) -> InrFile:
    """An INR in what a file holds, with or without the key `label`; else a `BadNetworkError`."""
    shapes = want.shapes(None)
    where, arrays, prefix = _found(loaded, network, want, shapes)
    label = None
    if "label" not in (shapes or ()):
        arrays = dict(arrays)
        label = arrays.pop("label", loaded.get("label") if isinstance(loaded, dict) else None)
    state = _state(arrays, network, want, shapes, where, prefix)
    return InrFile(state, None if label is None else whole_number(label, network))


def cnn(
    loaded: Any, network: str, want: Want, plain: Callable[[Any], dict[str, Any]] = dict
) -> CnnFile:
    """A CNN in what a file holds: `{"model", "config", "last_result", "iteration"}`, or alike.

    Instead of `config` there may be an `activation`. `plain` makes a dict of a config. A
    `BadNetworkError` if it is something else.
    """
    if not isinstance(loaded, dict) or not (
        isinstance(loaded.get("model"), dict) or any(_arrays_in(each) for _, each in _dicts(loaded))
    ):
        raise BadNetworkError(network, "holds no state dict under the key 'model'")
    config = _first_of("config", loaded)
    if config is None and (activation := _first_of("activation", loaded)) is not None:
        config = {"activation": activation}
    config = plain(config)
    result = loaded.get("last_result")
    score = result.get("test/acc") if isinstance(result, Mapping) else None
    if is_array(score) and np.ndim(score) == 0:
        score = score.item()
    if score is not None and not isinstance(score, int | float):
        raise BadNetworkError(network, f"its 'test/acc' is a {type(score).__name__}, not a number")
    iteration = loaded.get("iteration")
    shapes = want.shapes(config)
    where, arrays, prefix = _found(loaded, network, want, shapes, "model")
    return CnnFile(
        _state(arrays, network, want, shapes, "" if where == "model" else where, prefix),
        config,
        None if score is None else float(score),
        None if iteration is None else whole_number(iteration, network),
    )


def layers_in(loaded: Any) -> Mapping[str, Any] | None:
    """The outermost `config` in what a file holds that lists a network's layers."""
    configs = (each.get("config") for _, each in _dicts(loaded))
    told = (each for each in configs if isinstance(each, Mapping) and "layers" in each)
    return next(told, None)


def any_of(loaded: Any, network: str) -> State:
    """The arrays of a file's only state dict, in its order; else a `BadNetworkError`."""
    want = Want(exact=True)
    where, arrays, prefix = _found(loaded, network, want, None)
    return _state(arrays, network, want, None, where, prefix)


def _dicts(loaded: Any) -> Iterator[tuple[str, dict[Any, Any]]]:
    """All dicts in what a file holds, the outer ones first, and the keys that lead to each.

    Each is looked at once, however often it is referred to.
    """
    waiting, seen = collections.deque([("", loaded, 0)]), set()
    while waiting:
        where, value, depth = waiting.popleft()
        if id(value) in seen or depth > _DEEPEST:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            yield where, value
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(item, dict | list | tuple) and isinstance(key, str | int):
                waiting.append((_joined(where, f"{key!s:.80}"), item, depth + 1))


def _first_of(key: str, loaded: Any) -> Any:
    """The outermost value of a key that is set."""
    values = (each.get(key) for _, each in _dicts(loaded))
    return next((value for value in values if value is not None), None)


def _joined(where: str, prefix: str) -> str:
    return ".".join(filter(None, (where, prefix.strip("."))))


def _arrays_in(arrays: dict[Any, Any], names: tuple[str, ...] | None = None) -> bool:
    """Whether there are arrays in a dict, where `names` are given with one of these last."""
    return any(
        isinstance(key, str)
        and (names is None or key.rpartition(".")[2] in names)
        and is_array(value)
        and len(value.shape) > 0
        for key, value in arrays.items()
    )


def _found(
    loaded: Any, network: str, want: Want, shapes: Shapes | None, usual: str = ""
) -> tuple[str, dict[Any, Any], str]:
    """The dict of a network's arrays: where it is, itself, and what its names begin with.

    Of several it is the one at the top, or under the `usual` key.
    """
    if not isinstance(loaded, dict | list | tuple):
        raise BadNetworkError(network, f"holds a {type(loaded).__name__}, not a state dict")
    dicts, found = list(_dicts(loaded)), []
    if shapes:
        end = f".{next(iter(shapes))}"
        for where, arrays in dicts:
            names = [key for key in arrays if isinstance(key, str) and f".{key}".endswith(end)]
            found += [
                (where, arrays, key[: len(key) - len(end) + 1])
                for key in names
                if is_array(arrays[key])
            ]
    for names in (_WEIGHTS, None):  # under names that are not known: told by who reads them
        found = found or [(where, each, "") for where, each in dicts if _arrays_in(each, names)]
    keys = [_joined(where, prefix) for where, _, prefix in found]
    if want.key is not None:
        under = [
            each for each, key in zip(found, keys, strict=True) if want.key in (key, each[0])
        ] or [each for each in found if want.key == each[2].strip(".")]
        if len(under) != 1:
            has = ", ".join(sorted(keys)[:_SHOWN]) or "nothing"
            what = f"holds {len(under) or 'no'} networks under {want.key!r} (networks: {has})"
            raise BadNetworkError(network, what, "correct --config.state_key")
        return under[0]
    if len(found) > 1:
        at_top = [each for each, key in zip(found, keys, strict=True) if key in ("", usual)]
        if len(at_top) != 1:
            what = f"holds several networks, under {', '.join(sorted(keys)[:_SHOWN])}"
            remedy = "say which with --config.state_key=KEY"
            raise BadNetworkError(network, f"{what}; save the one to read alone", remedy)
        others = ", ".join(sorted(key for key in keys if key not in ("", usual))[:_SHOWN])
        want.notes.add(network, f"networks under {others} are left out")
        return at_top[0]
    if found:
        return found[0]
    if isinstance(loaded, dict) and isinstance(loaded.get(usual, loaded), dict):
        return usual, loaded.get(usual, loaded), ""
    raise BadNetworkError(network, f"holds a {type(loaded).__name__}, not a state dict")


def _state(
    arrays: dict[Any, Any],
    network: str,
    want: Want,
    shapes: Shapes | None,
    where: str,
    prefix: str,
) -> State:
    """The arrays in float32 by their names, without what other programs add to a network."""
    state: State = {}
    chosen = want.key is not None and prefix != ""  # then what has another prefix is not meant
    for key, value in arrays.items():
        if not isinstance(key, str | int) or (chosen and not str(key).startswith(prefix)):
            continue
        name = str(key).removeprefix(prefix)
        last = name.rpartition(".")[2]
        if not is_array(value) or isinstance(value, np.generic):
            if last in _WEIGHTS or name in (shapes or ()):
                raise BadNetworkError(network, f"{key} is a {type(value).__name__}, not a tensor")
            continue  # a figure or a setting beside the weights
        if len(value.shape) == 0 and "int" in str(value.dtype) and name not in (shapes or ()):
            continue  # a counter
        if shapes is not None and name not in shapes and not want.others:
            if last in _FOREIGN:
                what = f"has {key}, of {_FOREIGN[last]}, which such networks cannot have"
                raise BadNetworkError(network, what, "fold it into the weights before saving")
            if last in _COORDINATES:
                want.notes.add(network, f"the array {key} holds coordinates, and is left out")
                continue
        if name in state:
            raise BadNetworkError(network, f"has {name} twice, once behind {prefix!r}")
        state[name] = in_float32(value, str(key), network, want.notes, want.exact)
    if shapes is not None:
        state = _counted(state, shapes, network, want.notes)
        _add_biases(state, shapes, network, want.notes)
    if where:
        want.notes.add(network, f"networks are read from under the key {where!r}")
    if prefix:
        want.notes.add(network, f"names of arrays are read without {prefix!r}")
    if not state and arrays:
        shown = ", ".join(str(key)[:40] for key in list(arrays)[:_SHOWN] if isinstance(key, str))
        raise BadNetworkError(network, f"holds no state dict (it has {shown or 'no names'})")
    return state


def _kind(name: str) -> str:
    """The name of an array, whatever the number of its layer."""
    return re.sub(r"\d+", "#", name)


def _number(layer: str) -> int:
    return int(re.sub(r"\D", "", layer))


def _counted(state: State, shapes: Shapes, network: str, notes: Notes) -> State:
    """Layers counted one by one, where others without arrays lay between them.

    In `torch.nn.Sequential(Linear, Sine, Linear)` the second linear layer has the number 2.
    """

    def layers(names: Iterable[str]) -> dict[str, list[str]]:
        found = collections.defaultdict(list)
        for name in names:
            layer, _, last = name.rpartition(".")
            if last == "weight" and len(re.findall(r"\d+", layer)) == 1:
                found[_kind(layer)].append(layer)
        return {kind: sorted(of, key=_number) for kind, of in found.items()}

    theirs, renamed = layers(state), {}
    for kind, ours in layers(shapes).items():
        there = theirs.get(kind, [])
        if len(there) == len(ours) and there != ours:
            renamed |= dict(zip(there, ours, strict=True))
            notes.add(network, f"the layers {', '.join(there)} are read as {', '.join(ours)}")
    parts = {name: name.rpartition(".") for name in state}
    return {
        renamed.get(layer, layer) + dot + last: state[name]
        for name, (layer, dot, last) in parts.items()
    }


def _add_biases(state: State, shapes: Shapes, network: str, notes: Notes) -> None:
    """Zeros for the biases of layers that are saved without one, if all layers alike have none."""
    have = {_kind(name) for name in state}
    for name in shapes:
        weight = state.get(f"{name.removesuffix('bias')}weight")
        lacks = name.endswith(".bias") and _kind(name) not in have
        if lacks and weight is not None and weight.ndim > 0:
            state[name] = np.zeros(len(weight), np.float32)
            notes.add(network, f"layers like {name.removesuffix('.bias')} have no bias: it is 0")
