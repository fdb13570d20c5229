"""One Wild Park network as it is stored: a table of its layers, and its weights as one vector."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from probegen_jax.errors import BadNetworkError
from probegen_jax.networks import activations
from probegen_jax.networks.cnn import state_dict
from probegen_jax.networks.contract import check_finite

# Columns of the table: an activation by its place in ACTIVATIONS, the rest as in `ConvLayer`.
_BY_LAYER = ("kernel_size", "stride", "padding", "activation", "residual")
COLUMNS = ("in_channels", "out_channels", *_BY_LAYER)
# Above any channel or kernel that a CNN of this kind could have.
_LARGEST = 2**16
ACTIVATIONS = tuple(activations.ACTIVATIONS)


@dataclasses.dataclass(frozen=True)
class ParkNetwork:
    """A CNN: convolutions, global average pooling, a linear head.

    Attributes:
      layers: one row per convolution, by `COLUMNS`.
      weights: of each layer the kernel (k, k, in, out), then the bias; last the head's kernel
        (channels, classes) and bias.
      num_classes: outputs of the head.
    """

    layers: Int[np.ndarray, "L 7"]
    weights: Float[np.ndarray, " V"]
    num_classes: int

    def config(self) -> dict[str, Any]:
        """The architecture as the published checkpoints state it."""
        columns = dict(zip(COLUMNS, self.layers.T.tolist(), strict=True))
        inputs, outputs = columns.pop("in_channels"), columns.pop("out_channels")
        columns["activation"] = [ACTIVATIONS[index] for index in columns["activation"]]
        shared = {"n_layers": len(inputs), "n_classes": self.num_classes}
        return {**shared, "channels": [inputs[0], *outputs], **columns}

    def check(self, network: str) -> None:
        """Refuses, as a `BadNetworkError`, a table that is none, or other weights than it says."""
        if not len(self.layers) or self.layers.ndim != 2 or self.layers.shape[1] != len(COLUMNS):
            raise BadNetworkError(network, f"its table of layers is of shape {self.layers.shape}")
        _check_table(self.layers, network)
        shapes = self._kernel_shapes()
        number = sum(math.prod(shape) + shape[-1] for shape in shapes)
        if self.num_classes < 1 or self.weights.shape != (number,):
            raise BadNetworkError(
                network, f"has {self.weights.size:,} weights, its layers say {number:,}"
            )

    def _kernel_shapes(self) -> list[tuple[int, ...]]:
        convolutions = [(k, k, m, n) for m, n, k, *_ in self.layers.tolist()]
        return [*convolutions, (int(self.layers[-1, 1]), self.num_classes)]

    def arrays(self) -> dict[str, Any]:
        """`{"layers": ({"kernel", "bias"}, ...), "head": {"kernel", "bias"}}`: views, no copies."""
        affines, rest = [], self.weights
        for shape in self._kernel_shapes():
            kernel, bias, rest = np.split(rest, np.cumsum([math.prod(shape), shape[-1]]))
            affines.append({"kernel": kernel.reshape(shape), "bias": bias})
        return {"layers": tuple(affines[:-1]), "head": affines[-1]}


def flatten(weights: Mapping[str, Any]) -> Float[np.ndarray, " V"]:
    """The vector of which `ParkNetwork.arrays` makes such weights."""
    affines = (*weights["layers"], weights["head"])
    return np.concatenate(
        [np.ravel(affine[name]) for affine in affines for name in ("kernel", "bias")]
    )


def from_torch(
    state: Mapping[str, np.ndarray], config: Mapping[str, Any], network: str
) -> ParkNetwork:
    """A network from its checkpoint's state dict (see `state_dict.from_torch`) and config.

    Raises:
      BadNetworkError: weights and architecture disagree, or make no network; it names `network`.
    """
    layers, expected = _table(config, network), file_shapes(config, network)
    for key, shape in expected.items():
        if key not in state:
            raise BadNetworkError(network, f"has no {key}, which its config describes")
        if state[key].shape != shape:
            raise BadNetworkError(
                network, f"{key} has shape {state[key].shape}, its config says {shape}"
            )
    extra = sorted(set(state) - set(expected))
    if extra:
        raise BadNetworkError(network, f"has {extra[0]}, which its config does not describe")
    check_finite(network, state)
    num_classes = len(state["fc.bias"])
    return ParkNetwork(layers, flatten(state_dict.from_torch(state)), num_classes)


def file_shapes(config: Mapping[str, Any], network: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays, in torch's layout, that a checkpoint's config describes."""
    layers = _table(config, network)[:, :3].tolist()
    return state_dict.shapes(layers, config.get("n_classes", 10))


def _table(config: Mapping[str, Any], network: str) -> Int[np.ndarray, "L 7"]:
    channels = _listed(config.get("channels"))
    if not isinstance(channels, list) or len(channels) < 2:
        raise BadNetworkError(network, f"its config's channels are {channels!r}, not a list")
    depth = len(channels) - 1
    columns: list[list[Any]] = [channels[:-1], channels[1:]]
    for name in _BY_LAYER:
        values = _listed(config.get(name, [-1] * depth if name == "residual" else None))
        if not isinstance(values, list) or len(values) != depth:
            raise BadNetworkError(
                network, f"its config's {name} is {values!r}, not a list of {depth}"
            )
        if name == "activation":
            for value in values:
                if value not in ACTIVATIONS:
                    raise BadNetworkError(network, f"its activation {value!r} is unknown")
            values = [ACTIVATIONS.index(value) for value in values]
        columns.append(values)
    if not all(isinstance(value, int) for column in columns for value in column):
        raise BadNetworkError(network, "its config holds something else than whole numbers")
    if any(abs(value) > _LARGEST for column in columns for value in column):
        raise BadNetworkError(network, f"its config holds a size above {_LARGEST}")
    table = np.asarray(columns, np.int32).T
    _check_table(table, network)
    return np.ascontiguousarray(table)


def _listed(values: Any) -> Any:
    """A list for what says one: a tuple, an array, and NumPy's numbers in them."""
    if isinstance(values, list | tuple):
        return [value.item() if isinstance(value, np.generic) else value for value in values]
    return values.tolist() if hasattr(type(values), "tolist") else values


def _check_table(table: Int[np.ndarray, "L 7"], network: str) -> None:
    if (table[:, :4] < 1).any() or (table[:, 4] < 0).any():
        raise BadNetworkError(network, "its config holds sizes below 1 or a negative padding")
    if (table[:, :5] > _LARGEST).any():
        raise BadNetworkError(network, f"its config holds a size above {_LARGEST}")
    activation = table[:, COLUMNS.index("activation")]
    if (activation < 0).any() or (activation >= len(ACTIVATIONS)).any():
        raise BadNetworkError(network, f"its activations {activation.tolist()} are unknown")
    residual = table[:, COLUMNS.index("residual")]
    if (residual < -1).any() or (residual >= np.arange(len(table))).any():
        raise BadNetworkError(
            network, f"its residual links {residual.tolist()} do not lead to earlier layers"
        )
