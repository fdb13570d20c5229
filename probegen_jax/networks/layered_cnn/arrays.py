"""A CNN's arrays, as torch names and lays them out, and what its layers are by them."""

from typing import Any

import numpy as np

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks import batch_norm
from probegen_jax.networks.contract import check_finite
from probegen_jax.networks.layered_cnn import inference
from probegen_jax.networks.layered_cnn.fill import NORM, State, filled, without_prefix
from probegen_jax.networks.layered_cnn.layer import Layer, Shape
from probegen_jax.networks.layered_cnn.said import Said

Layers = tuple[Layer, ...]

_SAY = "say its layers in a JSON, see docs/zoos.md"


def read(
    state: State, said: Said, known: tuple[Layers, ...], image_shape: Shape, name: str
) -> tuple[Layers, tuple[Any, ...]]:
    """One network's layers, with what their arrays tell, and its weights.

    Args:
      known: the architectures of a zoo, one of which is taken where nothing is said of the file.

    Raises:
      BadNetworkError: arrays and what is said do not fit.
    """
    check_finite(name, state)
    try:
        if said.layers is not None:
            layers = filled(said.layers, state, image_shape)
        elif not said.missing:
            state = without_prefix(state)
            layers = inference.layers(state, said, image_shape)
        elif known:
            layers = _one_of(known, state, image_shape)
        else:
            told = "are" if len(said.missing) > 1 else "is"
            what = f"nothing says what its {', '.join(said.missing)} {told}"
            raise BadNetworkError(name, what, _SAY)
        return layers, _weights(layers, state, name)
    except UserError as error:
        if isinstance(error, BadNetworkError):
            raise
        raise BadNetworkError(name, str(error), _SAY) from error


def _one_of(known: tuple[Layers, ...], state: State, image_shape: Shape) -> Layers:
    """The only architecture whose arrays are those of a network."""
    faults, fitting = [], []
    for layers in known:
        try:
            found = filled(layers, state, image_shape)
            if found != layers:
                raise UserError("its arrays have other shapes")
            fitting.append(layers)
        except UserError as error:
            faults.append(str(error))
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(f"its arrays fit {len(fitting)} architectures of the zoo")
    more = f"; nor any other of {len(known)} architectures" if len(known) > 1 else ""
    raise UserError(f"{faults[0]}{more}")


def _weights(layers: Layers, state: State, name: str) -> tuple[Any, ...]:
    """As `LayeredCnnSpec` describes them, with BatchNorm folded."""
    weights = []
    for layer in layers:
        if layer.kind == "norm":
            ones = np.ones(layer.outputs, np.float32)
            kernel, bias = _with_norm(ones, None, layer.key, layer.epsilon, state, name)
        elif layer.kind in ("conv", "linear"):
            kernel, bias = state[f"{layer.key}.weight"], state.get(f"{layer.key}.bias")
            _check_length(bias, f"{layer.key}.bias", layer.outputs, name)
            if layer.norm:
                kernel, bias = _with_norm(kernel, bias, layer.norm, layer.epsilon, state, name)
            bias = np.zeros(layer.outputs, np.float32) if bias is None else bias
            kernel = kernel.transpose(2, 3, 1, 0) if layer.kind == "conv" else kernel.T
        else:
            continue
        weights.append({"kernel": np.ascontiguousarray(kernel), "bias": bias})
    return tuple(weights)


def _with_norm(
    weight: np.ndarray,
    bias: np.ndarray | None,
    key: str | None,
    epsilon: float,
    state: State,
    name: str,
) -> tuple[np.ndarray, np.ndarray]:
    norm = {last: state[f"{key}.{last}"] for last in NORM if f"{key}.{last}" in state}
    batch_norm.check(name, f"the BatchNorm {key!r}", norm)
    for last, array in norm.items():
        _check_length(array, f"{key}.{last}", len(weight), name)
    return batch_norm.folded(weight, bias, norm, epsilon)


def _check_length(array: np.ndarray | None, key: str, length: int, name: str) -> None:
    if array is not None and array.shape != (length,):
        raise BadNetworkError(name, f"{key} has shape {array.shape}, expected ({length},)", _SAY)
