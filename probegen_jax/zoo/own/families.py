"""Which networks lie in files: their spec, found by the names and shapes of their arrays."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from probegen_jax.errors import BadNetworkError, UnknownNamesError, UserError
from probegen_jax.files import read_json
from probegen_jax.networks import registry
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.pixels import Pixels
from probegen_jax.zoo.files import inr_files
from probegen_jax.zoo.files.state_dicts import Want

# In a folder of one model, as Hugging Face writes it.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"


def weights_file(path: pathlib.Path) -> pathlib.Path:
    """The file of a network that a CSV lists: the path itself, or what lies in that folder.

    In a folder it has the name that Hugging Face gives it, or is the only network there; else a
    `BadNetworkError`.
    """
    if not path.is_dir():
        return path
    usual = [path / name for name in _WEIGHTS if (path / name).is_file()]
    inside = usual or [file for file in path.iterdir() if inr_files.is_network(file.name)]
    if len(inside) == 1 or usual:
        return inside[0]
    what = f"is a folder with {len(inside) or 'no'} network files"
    raise BadNetworkError(str(path), what, f"name the file, or call it {_WEIGHTS[0]}")


def config_beside(file: pathlib.Path) -> dict[str, Any] | None:
    """What a JSON beside a network's file says of it; None where there is none."""
    return _json(json_beside(file))


def json_beside(file: pathlib.Path) -> pathlib.Path:
    """Where that JSON lies: under the file's name, or as config.json."""
    own = file.with_suffix(".json")
    return own if own.is_file() else file.with_name(_CONFIG)


def find(file: pathlib.Path, options: ReadOptions, given: Mapping[str, Any]) -> NetworkSpec:
    """The spec of networks like that in a file.

    Args:
      given: what the user says of them, see `NetworkSpec.from_files`, and `pixel_mean` and
        `pixel_std`, which count more than the preprocessor_config.json beside the file.

    Raises:
      UserError: none that is known here, or one of which more must be said.
    """
    name, config = str(file), config_beside(file)
    want = Want(key=options.state_key)
    state = inr_files.read(file, name, want).state
    tried = []
    for family in registry.FAMILIES.values():
        try:
            spec = family.from_files(config, state, name, given)
        except UnknownNamesError as error:
            tried.append(error.fault)
            continue
        if spec is not None:
            pixels = _pixels(file, config, given)
            return spec if pixels is None else dataclasses.replace(spec, pixels=pixels)
    raise UserError(
        f"{name}: {'; '.join(tried)}; other networks are read with --config.network=FILE.py:NAME, "
        "see docs/extending.md"
    )


def _pixels(
    file: pathlib.Path, config: Mapping[str, Any] | None, given: Mapping[str, Any]
) -> Pixels | None:
    """How images were normalised, as the user says or the file's folder; timm's is in `config`."""
    mean, std = given.get("pixel_mean"), given.get("pixel_std")
    if mean is None and std is None:
        said = _json(file.with_name(_PREPROCESSOR)) or {}
        if not said.get("do_normalize", True):
            return None
        of_timm = (config or {}).get("pretrained_cfg")
        of_timm = of_timm if isinstance(of_timm, dict) else {}
        mean = said.get("image_mean") or of_timm.get("mean")
        std = said.get("image_std") or of_timm.get("std")
    if mean is None and std is None:
        return None
    try:
        return Pixels(tuple(map(float, mean)), tuple(map(float, std)))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{file}: images' mean is {mean!r:.80} and their std {std!r:.80}; give both, a number "
            "for every channel, with --config.pixel_mean and --config.pixel_std"
        ) from error


def _json(path: pathlib.Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except UserError as error:
        raise BadNetworkError(str(path), str(error)) from error
    if not isinstance(content, dict):
        raise BadNetworkError(str(path), "is no JSON object")
    return content
