"""One INR's file, of torch or safetensors, to its arrays by name, and back."""

import json
import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from probegen_jax.errors import BadNetworkError
from probegen_jax.networks.options import ReadOptions
from probegen_jax.zoo.files import state_dicts, torch_files

SUFFIXES = (".pth", ".pt", ".safetensors", ".ckpt", ".tar", ".bin")
# Under such names trainings keep other things than networks.
_OTHERS = re.compile(
    r"(optimizer|scheduler|scaler|sampler|rng_state|random_states|training_args|dl_state_dict)[\d_]*"
    r"\.\w+"
)
_PART = re.compile(r"-\d+-of-0*([2-9]|\d*[1-9]\d)\.\w+$", re.IGNORECASE)
# As safetensors calls them.
_TYPES = {
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"{sign}{n}": np.dtype(f"{sign.lower()}{n // 8}") for sign in "IU" for n in (8, 16, 32, 64)},
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "BOOL": np.dtype(bool),
}

# What earlier versions called them.
InrKeys = ReadOptions


def is_network(name: str) -> bool:
    """Whether a file is one of a network, by its name."""
    name = name.lower()
    return name.endswith(SUFFIXES) and not _OTHERS.fullmatch(name.rpartition("/")[2])


def read(
    content: torch_files.Content, network: str, want: state_dicts.Want | None = None
) -> state_dicts.InrFile:
    """Reads the arrays of an INR's file, of torch or safetensors; see `torch_files.load_inr`."""
    data = torch_files.read_bytes(content, network)
    if not is_safetensors(data, network):
        return torch_files.load_inr(data, network, want)
    return state_dicts.inr(read_safetensors(data, network)[0], network, want or state_dicts.Want())


def is_safetensors(data: bytes, network: str) -> bool:
    """Whether a file is of safetensors: by its first bytes or, if they say nothing, its name."""
    if _PART.search(network):
        raise BadNetworkError(network, "is one of the parts of a network; save it as one file")
    # Of safetensors the first are the header's length, which may look like a zip or a pickle.
    if data.startswith((b"PK", b"\x80")):
        return data[4:9] == bytes(4) + b"{"
    return data[8:9] == b"{" or network.lower().endswith(".safetensors")


def read_safetensors(data: bytes, network: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the metadata of a file of safetensors."""
    from safetensors import SafetensorError, deserialize

    try:
        state = {
            name: np.frombuffer(view["data"], _TYPES[view["dtype"]]).reshape(view["shape"])
            for name, view in deserialize(data)
        }
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return state, header.get("__metadata__") or {}
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise BadNetworkError(network, f"is not a readable safetensors file ({error})") from error


def to_state(weights: Any, options: ReadOptions) -> dict[str, np.ndarray]:
    """The arrays by key that torch would store for one network, a SIREN or another field."""
    layers = weights["layers"] if isinstance(weights, Mapping) else weights
    state: dict[str, np.ndarray] = {}
    for index, layer in enumerate(layers):
        name, scale = options.layer_name(index, len(layers)), options.scale_key.format(index)
        for prefix, key in (("", name), ("scale_", scale)):
            if f"{prefix}kernel" in layer:
                state[f"{key}.weight"] = np.asarray(layer[f"{prefix}kernel"]).T
                state[f"{key}.bias"] = np.asarray(layer[f"{prefix}bias"])
    if "projection" in weights:
        state[options.projection_key] = np.asarray(weights["projection"]).T
    return state
