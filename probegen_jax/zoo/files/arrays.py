"""Arrays of files, of whatever library and type, in float32, and what is told of them.

Tensors are known by what they can do, so that nothing here needs torch.
"""

from typing import Any

import numpy as np

from probegen_jax.errors import BadNetworkError

_MANY = 2**24  # values that a tensor may have of fewer stored ones, by repeating them


class Notes:
    """What was not taken as it stood in files, to be told once for all of them."""

    def __init__(self):
        self._networks: dict[str, dict[str, None]] = {}

    def add(self, network: str, what: str) -> None:
        """Notes it of a network."""
        self._networks.setdefault(what, {})[network] = None

    @property
    def lines(self) -> list[str]:
        """A line for each thing noted, with the first network that it holds for."""
        told = []
        for what, networks in self._networks.items():
            more = f" and {len(networks) - 1:,} more" if len(networks) > 1 else ""
            told.append(f"{what} ({next(iter(networks))}{more})")
        return told


def is_array(value: Any) -> bool:
    """Whether a value is an array, a tensor or one of NumPy's numbers."""
    return hasattr(type(value), "__array__")


def whole_number(value: Any, network: str) -> int:
    """A label or count as stored: a number, or an array or tensor of one that is whole."""
    try:
        number = int(value.item() if hasattr(value, "item") else value)
        if number == value:
            return number
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass  # told below
    shown = " ".join(repr(value).split())[:80]
    raise BadNetworkError(network, f"{shown} is not an integer label or count")


def in_float32(
    value: Any, name: str, network: str, notes: Notes, exact: bool = False
) -> np.ndarray:
    """An array or a tensor, wherever it lies, as a NumPy array of float32.

    Other floats are converted, and that is noted; if `exact`, or for anything else, a
    `BadNetworkError`.
    """
    if hasattr(value, "detach"):
        value = _without_torch(value, name, network, notes, exact)
    array = np.asarray(value)
    _check_float(array.dtype.name, name, network, notes, exact)
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32, copy=False)
    if converted is not array and np.isinf(converted).any() and np.isfinite(array).all():
        raise BadNetworkError(network, f"{name} holds values that float32 has not")
    return converted


def _without_torch(tensor: Any, name: str, network: str, notes: Notes, exact: bool) -> Any:
    if str(tensor.layout) != "torch.strided" or tensor.is_meta or tensor.is_nested:
        raise BadNetworkError(network, f"{name} is sparse or has no values, not a plain tensor")
    if tensor.numel() > max(_MANY, tensor.untyped_storage().nbytes()):
        raise BadNetworkError(network, f"{name} announces more values than the file holds")
    kind = str(tensor.dtype).removeprefix("torch.")
    _check_float(kind, name, network, notes, exact)
    tensor = tensor.detach().cpu().resolve_neg()
    return (tensor if kind == "float64" else tensor.float()).numpy()


def _check_float(kind: str, name: str, network: str, notes: Notes, exact: bool) -> None:
    if kind != "float32" and (exact or not kind.startswith(("float", "bfloat"))):
        remedy = "save the network with .float()"
        raise BadNetworkError(network, f"{name} is {kind}, not float32", remedy)
    if kind != "float32":
        notes.add(network, f"weights in {kind} are converted to float32")
