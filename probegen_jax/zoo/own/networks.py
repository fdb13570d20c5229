"""Networks that a user brings one by one: files or state dicts, read as a run's zoo holds them."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.options import ReadOptions
from probegen_jax.zoo.files import inr_files, state_dicts, torch_files
from probegen_jax.zoo.files.arrays import Notes
from probegen_jax.zoo.files.state_dicts import Want
from probegen_jax.zoo.own import families

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
        inside = [file for file in path.rglob("[!.]*") if inr_files.is_network(str(file))]
        if not inside:
            endings = ", ".join(inr_files.SUFFIXES)
            raise UserError(f"{path}: no network files here; they end in {endings}")
        files += sorted(inside, key=_natural)
    return files


def _natural(path: pathlib.Path | str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def read(
    spec: NetworkSpec, source: Source, name: str, options: ReadOptions, notes: Notes | None = None
) -> Any:
    """One network like a zoo's, as `spec.stack` takes it.

    Args:
      source: a file; or a dict of arrays or tensors by name, where `spec.needs_config` under
        `model`, beside `config`.
      notes: where it is noted what was not taken as it stood.
    """
    want = Want(
        lambda config: spec.file_shapes(config, name, options), options.state_key, notes or Notes()
    )
    if isinstance(source, Mapping):
        source = dict(source)
    elif not isinstance(source, pathlib.Path):
        raise BadNetworkError(name, f"is a {type(source).__name__}, not a file or a dict of arrays")
    if spec.config_beside:
        loaded, config = _with_config(source, name)
        shapes = spec.file_shapes(config, name, options)
        want = dataclasses.replace(want, shapes=lambda _: shapes, others=True)
        return spec.read(state_dicts.inr(loaded, name, want).state, config, name, options)
    if spec.needs_config:
        file = _cnn_file(source, name, want)
        return spec.read(file.state, file.config, name, options)
    of_file = isinstance(source, pathlib.Path)
    found = inr_files.read(source, name, want) if of_file else state_dicts.inr(source, name, want)
    return spec.read(found.state, None, name, options)


def _with_config(
    source: pathlib.Path | dict[Any, Any], name: str
) -> tuple[Any, Mapping[str, Any] | None]:
    """What a file or a dict holds, and what is said of its layers, there or in a JSON beside it.

    What safetensors sorts by the names' letters comes in the order of their numbers.
    """
    if isinstance(source, dict):
        return source, state_dicts.layers_in(source)
    data = torch_files.read_bytes(source, name)
    if inr_files.is_safetensors(data, name):
        state, metadata = inr_files.read_safetensors(data, name)
        loaded: Any = {key: state[key] for key in sorted(state, key=lambda key: _natural(key))}
        inside = state_dicts.layers_in({"config": _json(metadata.get("config"))})
    else:
        loaded = torch_files.load(data, name)
        inside = state_dicts.layers_in(loaded)
    return loaded, inside or families.config_beside(source)


def _json(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None


def _cnn_file(source: pathlib.Path | dict[Any, Any], name: str, want: Want) -> state_dicts.CnnFile:
    if isinstance(source, dict):
        has_config = isinstance(source.get("config"), Mapping) or "activation" in source
        if not isinstance(source.get("model"), Mapping) or not has_config:
            raise BadNetworkError(name, "must be a dict with the keys 'model' and 'config'")
        return state_dicts.cnn(source | {"model": dict(source["model"])}, name, want)
    data = torch_files.read_bytes(source, name)
    if not inr_files.is_safetensors(data, name):
        return torch_files.load_cnn(data, name, want)
    state, metadata = inr_files.read_safetensors(data, name)
    config = _json(metadata.get("config"))
    if not isinstance(config, dict):
        raise BadNetworkError(name, "its metadata has no architecture under 'config', as JSON")
    return state_dicts.cnn({"model": state, "config": config}, name, want)
