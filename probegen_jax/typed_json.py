"""JSON files, held to types and to a digest: what does not fit is told by its field."""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from probegen_jax.errors import UserError
from probegen_jax.files import read_json

DIGEST = "digest"
# A number that may also be nan or infinite, as a metric of predictions that are not finite.
Figure = typing.NewType("Figure", float)
Whole = typing.NewType("Whole", int)  # of any size

_IN_WORDS: dict[Any, str] = {
    int: "a whole number below 2³¹",
    Whole: "a whole number",
    float: "a number",
    Figure: "a number",
    str: "text",
    bool: "true or false",
}
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def read(path: pathlib.Path, hint: Any, remedy: str) -> Any:
    """The content of a JSON file, as `typed` gives it.

    Args:
      remedy: what the user can do where it does not fit.

    Raises:
      UserError: it cannot be read, or it does not fit: the field, and the remedy.
    """
    try:
        return typed(hint, read_json(path), str(path))
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from error


def typed(hint: Any, value: Any, where: str) -> Any:
    """A value from JSON as a type hint says: lists become tuples, and mappings dataclasses.

    A hint is a dataclass, a `TypedDict` (of which a value may have more keys), tuple, list, dict,
    `Literal`, union, `Figure`, `Any`, or a type of JSON's plain values. For anything else, a
    `UserError` that calls the value `where`.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if isinstance(value, Mapping) and (dataclasses.is_dataclass(hint) or typing.is_typeddict(hint)):
        return _with_fields(hint, value, where)
    if origin is dict and isinstance(value, dict):
        return {name: typed(arguments[1], value[name], f"{where}: {name:.80}") for name in value}
    if origin is list and isinstance(value, list):
        return [typed(arguments[0], item, where) for item in value]
    if origin is tuple and isinstance(value, list | tuple):
        many = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(many) == len(value):
            return tuple(typed(item, v, where) for item, v in zip(many, value, strict=True))
    if origin in (types.UnionType, typing.Union):
        optional = value is None and types.NoneType in arguments
        return None if optional else typed(arguments[0], value, where)
    if origin is Literal and isinstance(value, str) and value in arguments:
        return value
    if type(value) is int and abs(value) < 2**31 and hint in (int, float, Figure):
        return int(value) if hint is int else float(value)
    if type(value) is int and hint is Whole:
        return value
    if type(value) is float and (hint is Figure or (hint is float and math.isfinite(value))):
        return value
    if type(value) is hint and (hint is bool or (hint is str and _can_be_passed_on(value))):
        return value
    choices = ", ".join(map(str, arguments)) if origin is Literal else ""
    wanted = f"one of {choices}" if choices else _IN_WORDS.get(hint, "something else")
    raise misfit(value, where, wanted)


def misfit(value: Any, where: str, wanted: str) -> UserError:
    """What to raise for a value that is not as wanted."""
    return UserError(f"{where} is {_short.repr(value)}; it should be {wanted}")


def _with_fields(hint: Any, value: Mapping[str, Any], where: str) -> Any:
    """A dataclass, or a dict as a `TypedDict` says, which may hold more."""
    hints, open_ended = typing.get_type_hints(hint), typing.is_typeddict(hint)
    if open_ended:
        needed, unknown = hint.__required_keys__, set()
    else:
        fields = dataclasses.fields(hint)
        needed = {field.name for field in fields if field.default is dataclasses.MISSING}
        unknown = value.keys() - {field.name for field in fields}
    if missing := needed - value.keys():
        raise UserError(f"{where} has no {min(missing)!r}")
    if unknown:
        raise UserError(f"{where} has an unknown {min(unknown)!r:.80}")
    known = [name for name in value if name in hints]
    found = {name: typed(hints[name], value[name], f"{where}: {name}") for name in known}
    return {**value, **found} if open_ended else hint(**found)


def _can_be_passed_on(text: str) -> bool:
    """Whether a text can be a path, or be written: no NUL, and no half of a character."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def signed(content: Mapping[str, Any], *more: bytes) -> dict[str, Any]:
    """A JSON object with a digest of itself, and of what lies beside it, by which damage shows."""
    return {**content, DIGEST: _digest(content, more)}


def is_as_signed(content: Mapping[str, Any], *more: bytes) -> bool:
    """Whether an object is as `signed` gave it; one without a digest, of an earlier version, is."""
    return DIGEST not in content or content[DIGEST] == _digest(content, more)


def _digest(content: Mapping[str, Any], more: tuple[bytes, ...]) -> str:
    rest = {name: value for name, value in content.items() if name != DIGEST}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for part in more:
        digest.update(part)
    return digest.hexdigest()
