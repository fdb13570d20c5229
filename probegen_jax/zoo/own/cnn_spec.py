"""How CNNs of the user's own are read, by a config or a dict of it."""

import pathlib
from typing import Any

from probegen_jax.errors import UserError
from probegen_jax.files import read_json
from probegen_jax.networks.layered_cnn.layered import LayeredCnnSpec
from probegen_jax.networks.layered_cnn.said import BY_LAYER, Said
from probegen_jax.networks.pixels import Pixels


def cnn_spec(config: Any) -> LayeredCnnSpec:
    """The spec that reads the networks of `configs/own_cnn.py`.

    Raises:
      UserError: what is missing, or cannot be.
    """
    settings = {name: config.get(name) for name in BY_LAYER if config.get(name) is not None}
    path, said = config.get("architecture"), Said.parse(settings)
    if path:
        if settings:
            raise UserError(
                f"architecture is {path}, and {min(settings)} is given too; say it in the one place"
            )
        try:
            said = Said.parse(read_json(pathlib.Path(path).expanduser()))
        except UserError as error:
            told = str(error)
            raise UserError(told if str(path) in told else f"{path}: {told}") from error
    if (path and said.layers is None and said.missing) or (settings and said.missing):
        missing = ", ".join(said.missing)
        raise UserError(
            f"{path or 'settings'}: {missing} must be said too, for layers to be inferred; or list "
            "the layers in a JSON"
        )
    side = config.get("image_size")
    size = said.image_size if side is None else (side, side)
    if size is None:
        raise UserError(
            "nothing says how large the networks' images are; give --config.image_size=32, or "
            "image_size in the JSON"
        )
    mean, std = config.get("pixel_mean") or said.mean, config.get("pixel_std") or said.std
    if (mean is None) != (std is None):
        raise UserError(f"the images' mean is {mean} and their std {std}; give both or neither")
    pixels = None if mean is None else Pixels(tuple(map(float, mean)), tuple(map(float, std)))
    return LayeredCnnSpec((*size, 0), 0, said=said, pixels=pixels)
