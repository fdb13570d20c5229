"""Networks that a user brings one by one: files or state dicts, read as a run's zoo holds them."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks.contract import NetworkSpec, ReadOptions
from probegen_jax.zoo.files import inr_files, torch_files

# A file, or what torch or safetensors would give of it.
Source = pathlib.Path | Mapping[str, Any]


def find_files(names: Sequence[str | pathlib.Path]) -> list[pathlib.Path]:
    """Files as they are named; of a folder all network files in it, n2 before n10.

    A file that is not there is kept: it gets a row of its own. A folder needs network files.
    """
    files: list[pathlib.Path] = []
    for path in map(pathlib.Path, names):
        if not path.is_dir():
            files.append(path)
            continue
        inside = [file for file in path.rglob("[!.]*") if file.suffix in inr_files.SUFFIXES]
        if not inside:
            endings = ", ".join(inr_files.SUFFIXES)
            raise UserError(f"{path}: no network files here; they end in {endings}")
        files += sorted(inside, key=_natural)
    return files


def _natural(path: pathlib.Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def read(spec: NetworkSpec, source: Source, name: str, options: ReadOptions) -> Any:
    """One network like a zoo's, as `spec.stack` takes it.

    Args:
      source: a file; or a dict of arrays or tensors by name, where `spec.needs_config` under
        `model`, beside `config`.
    """
    if not isinstance(source, pathlib.Path | Mapping):
        raise BadNetworkError(name, f"is a {type(source).__name__}, not a file or a dict of arrays")
    if spec.needs_config:
        file = _cnn_file(source, name)
        return spec.read(file.state, file.config, name, options)
    if isinstance(source, pathlib.Path):
        state = inr_files.read(source, name).state
    else:
        state = _arrays({key: source[key] for key in source if key != "label"}, name)
    return spec.read(state, None, name, options)


def _cnn_file(source: Source, name: str) -> torch_files.CnnFile:
    if not isinstance(source, pathlib.Path):
        state, config = source.get("model"), source.get("config")
        if config is None and "activation" in source:
            config = {"activation": source["activation"]}
        if not isinstance(state, Mapping) or not isinstance(config, Mapping):
            raise BadNetworkError(name, "must be a dict with the keys 'model' and 'config'")
        return torch_files.CnnFile(_arrays(state, name), dict(config))
    if source.suffix != ".safetensors":
        return torch_files.load_cnn(source, name)
    state = inr_files.read(source, name).state
    from safetensors import safe_open

    with safe_open(source, "numpy") as file:
        text = (file.metadata() or {}).get("config")
    try:
        config = json.loads(text or "null")
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise BadNetworkError(name, "its metadata has no architecture under 'config', as JSON")
    return torch_files.CnnFile(state, config)


def _arrays(state: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    arrays = {}
    for key, value in state.items():
        if hasattr(value, "detach"):  # a torch tensor, maybe with a gradient or on a GPU
            value = value.detach().cpu()
        array = np.asarray(value)
        if array.dtype != np.float32:
            raise BadNetworkError(name, f"{key} is {array.dtype}, not float32")
        arrays[str(key)] = array
    return arrays
