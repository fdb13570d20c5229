"""The type of each setting, which a config in a file may have otherwise."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from probegen_jax.typed_json import Figure, Whole, misfit, typed

# Types of the keys that only some configs have.
_OTHER_TYPES: dict[str, Any] = {
    **dict.fromkeys(("fidelity", "split", "task", "grid", "layer_key"), str),
    **dict.fromkeys(("manual_dir", "splits_file", "networks_dir", "targets_csv"), str | None),
    **dict.fromkeys(("download_url", "download_sha256", "last_layer_key", "state_key"), str | None),
    **dict.fromkeys(("num_classes", "in_dim", "channels"), int),
    **dict.fromkeys(("val_share", "test_share", "w0", "output_shift"), float),
    **dict.fromkeys(("skip_bad", "in_memory"), bool),
    **dict.fromkeys(("w0_first", "first_octave", "width", "norm_eps"), float | None),
    **dict.fromkeys(("heads", "image_size", "stem_stride"), int | None),
    **dict.fromkeys(("stem_pool", "stride_first"), bool | None),
    "strides": tuple[int, ...] | None,
    **dict.fromkeys(("pixel_mean", "pixel_std"), tuple[float, ...] | None),
    "network": str | None,
    "generator_depth": Whole | None,
    **dict.fromkeys(("activation", "encoding", "scale_key", "projection_key"), str | None),
    "frequencies": int | None,
    "cos_first": bool | None,
    **dict.fromkeys(("stride", "padding", "pool", "architecture"), str | None),
    "hidden": tuple[int, ...],
}


def check_types(config: ConfigDict, defaults: ConfigDict, path: pathlib.Path) -> None:
    """Refuses values of another type than those of the defaults, by key.

    Raises:
      UserError: the first such value.
    """
    _check(config, _types(defaults) | _OTHER_TYPES, f"{path}: ")


def _types(config: ConfigDict) -> dict[str, Any]:
    """The type of each key of a config, by its value there; nested where that is."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        kind = config.get_type(key)
        kind = {float: Figure, int: Whole}.get(kind, kind)  # what they can be is told elsewhere
        nested = isinstance(value, ConfigDict)
        found[key] = _types(value) if nested else kind | None if value is None else kind
    return found


def _check(config: ConfigDict, types: Mapping[str, Any], where: str) -> None:
    """Refuses values of other types, as a file may have them."""
    for key in types.keys() & config.keys():
        value = config[key]
        if not isinstance(types[key], Mapping):
            typed(types[key], value, f"{where}{key}")
        elif isinstance(value, ConfigDict):
            _check(value, types[key], f"{where}{key}.")
        else:
            names = ", ".join(sorted(types[key]))
            raise misfit(value, f"{where}{key}", f"settings by name: {names}")
