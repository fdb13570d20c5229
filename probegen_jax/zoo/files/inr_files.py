"""One INR's file, `.pth` or `.safetensors`, to its arrays by name, and back."""

import pathlib

import numpy as np

from probegen_jax.errors import BadNetworkError
from probegen_jax.networks.contract import ReadOptions
from probegen_jax.networks.siren import SirenWeights
from probegen_jax.zoo.files import torch_files

SUFFIXES = (".pth", ".pt", ".safetensors")


def read(content: torch_files.Content, network: str) -> torch_files.InrFile:
    """Reads the arrays of an INR's file, by the ending of its name; see `torch_files.load_inr`."""
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


def to_state(weights: SirenWeights, options: ReadOptions) -> dict[str, np.ndarray]:
    """The arrays by key that torch would store for one network."""
    state: dict[str, np.ndarray] = {}
    for index, layer in enumerate(weights):
        name = options.layer_name(index, len(weights))
        state[f"{name}.weight"] = np.asarray(layer["kernel"]).T
        state[f"{name}.bias"] = np.asarray(layer["bias"])
    return state
