"""One INR's file, `.pth` or `.safetensors`, to a flat vector of weights and back."""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from probegen_jax.errors import UserError
from probegen_jax.networks.siren import SirenSpec, SirenWeights
from probegen_jax.zoo import flat_weights
from probegen_jax.zoo.bad_networks import BadNetworkError, check_finite
from probegen_jax.zoo.files import torch_files

SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclasses.dataclass(frozen=True)
class InrKeys:
    """How the arrays of an INR are named; `{}` stands for the layer's number, from 0.

    Attributes:
      layer: of each layer, before `.weight` and `.bias`.
      last: of the last layer, where it differs. NFN's INRs have "net.{}.linear" and "net.{}".
    """

    layer: str = "seq.{}"
    last: str | None = None

    def __post_init__(self):
        for pattern in filter(None, (self.layer, self.last)):
            if pattern.count("{}") != 1 or "{" in pattern.replace("{}", ""):
                raise UserError(
                    f"layer key {pattern!r} must hold one {{}} for the layer's number, "
                    "as in seq.{}"
                )

    def of(self, index: int, depth: int) -> str:
        """The name of layer `index` of `depth`."""
        pattern = self.last if self.last and index == depth - 1 else self.layer
        return pattern.format(index)


def read(content: torch_files.Content, network: str) -> torch_files.InrFile:
    """Reads the arrays of an INR's file, by the ending of its name.

    Args:
      content: the file, or its bytes.
      network: its name.

    Raises:
      BadNetworkError: the file cannot be read or is something else.
    """
    if not network.endswith(".safetensors"):
        return torch_files.load_inr(content, network)
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = content.read_bytes() if isinstance(content, pathlib.Path) else content
        state = dict(load(data))
    except OSError as error:
        raise BadNetworkError(network, f"cannot be read ({error.strerror})") from error
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise BadNetworkError(network, f"is not a readable safetensors file ({error})") from error
    label = state.pop("label", None)
    if label is not None:
        label = torch_files.whole_number(label, network)
    return torch_files.InrFile(state, label)


def to_vector(
    state: Mapping[str, np.ndarray], network: str, spec: SirenSpec, keys: InrKeys
) -> Float[np.ndarray, " W"]:
    """The weights of one INR as `vectors.unflatten` expects them.

    Args:
      state: arrays by key, weights (out, in).
      network: names it in messages.
      spec: what the network should be.
      keys: how its arrays are named.

    Raises:
      BadNetworkError: a key is missing or unknown, a shape or type differs, or a weight is not
        finite.
    """
    depth = len(spec.sizes) - 1
    layers, expected = [], set()
    for index in range(depth):
        name = keys.of(index, depth)
        m, n = spec.sizes[index : index + 2]
        weight, bias = f"{name}.weight", f"{name}.bias"
        for key, shape in ((weight, (n, m)), (bias, (n,))):
            if key not in state:
                raise BadNetworkError(
                    network,
                    f"has no {key} (it has {', '.join(sorted(state)) or 'nothing'})",
                    "set key names, width and depth to the zoo's, or use --config.skip_bad=True",
                )
            if state[key].shape != shape:
                raise BadNetworkError(
                    network,
                    f"{key} has shape {state[key].shape}, expected {shape}",
                    "set width and depth to the zoo's, or use --config.skip_bad=True",
                )
            if state[key].dtype != np.float32:
                raise BadNetworkError(network, f"{key} is {state[key].dtype}, not float32")
            expected.add(key)
        layers.append({"kernel": state[weight].T, "bias": state[bias]})
    extra = sorted(set(state) - expected)
    if extra:
        raise BadNetworkError(
            network,
            f"has {extra[0]}, which a network of {depth} layers has not",
            "set the key names and depth to the zoo's, or use --config.skip_bad=True",
        )
    check_finite(network, state)
    return flat_weights.flatten(tuple(layers))


def to_state(weights: SirenWeights, keys: InrKeys) -> dict[str, np.ndarray]:
    """The arrays by key that torch would store for one network."""
    state: dict[str, np.ndarray] = {}
    for index, layer in enumerate(weights):
        name = keys.of(index, len(weights))
        state[f"{name}.weight"] = np.asarray(layer["kernel"]).T
        state[f"{name}.bias"] = np.asarray(layer["bias"])
    return state
