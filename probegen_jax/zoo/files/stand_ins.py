"""What takes the place of objects that trainings keep beside weights: no code of theirs is called.

Figures and tables of NumPy are made from their bytes here; anything else on the list becomes an
object without content.
"""

import re
from typing import Any

import numpy as np

_NUMBERS = re.compile(r"b1|[iu][1248]|f[248]")
_INERT = (
    "argparse.Namespace",
    "create_random_cnns.CNNConfig",  # which Wild Park configs name as their type and never create
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    "types.SimpleNamespace",
)
_OF_OMEGACONF = {
    "dictconfig": ("DictConfig",),
    "listconfig": ("ListConfig",),
    "base": ("ContainerMetadata", "Metadata"),
    "nodes": ("AnyNode", "IntegerNode", "FloatNode", "StringNode", "BooleanNode"),
}


class Inert:
    """Stands for an object that is no part of a network; holds nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Type:
    """Stands for a `numpy.dtype`; `numpy` is None if it is not one of plain numbers."""

    def __init__(self, code: Any = None, *_: Any):
        known = isinstance(code, str) and _NUMBERS.fullmatch(code)
        self.numpy = np.dtype(code) if known else None

    def __setstate__(self, state: Any) -> None:
        if self.numpy is not None and state[1] in ("<", ">"):
            self.numpy = self.numpy.newbyteorder(state[1])


class _Array:
    """Stands for a `numpy.ndarray` until its bytes are known; empty unless it is of numbers."""

    dtype, shape = np.dtype(np.uint8), (0,)

    def __init__(self, *_: Any):
        self._values = np.zeros(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if dtype.numpy is not None:
            order = "F" if fortran else "C"
            self._values = np.frombuffer(data, dtype.numpy).reshape(shape, order=order)
            self.dtype, self.shape = self._values.dtype, self._values.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._values, dtype=dtype, copy=copy)

    def item(self) -> Any:
        return self._values.item()

    def tolist(self) -> Any:
        return self._values.tolist()


def _scalar(dtype: _Type, data: Any = b"") -> Any:
    """What `numpy.float64(…)` and the like are pickled as."""
    return Inert() if dtype.numpy is None else np.frombuffer(data, dtype.numpy)[0]


def _empty(*_: Any) -> _Array:
    """What an array is pickled as, before its state."""
    return _Array()


_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")  # of NumPy 1 and 2
ALLOWED = [
    (_Type, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *((_scalar, f"{core}.scalar") for core in _CORES),
    *((_empty, f"{core}._reconstruct") for core in _CORES),
    *((Inert, name) for name in _INERT),
]


def instead_of_omegaconf() -> list[tuple[Any, str]]:
    """What is allowed where OmegaConf is not installed: configs of it are passed over."""
    names = [
        f"omegaconf.{module}.{name}" for module, many in _OF_OMEGACONF.items() for name in many
    ]
    others = ("typing.Any", "typing.List", "collections.defaultdict")
    return [(Inert, name) for name in (*names, *others)]
