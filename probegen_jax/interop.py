"""Our parameters beside the official PyTorch code's `state_dict`.

Official names: `input` holds the latents, or the free probes where there is no generator;
`tokens_generator.i.{weight,bias}` the generator's layers; `points_mixer.{2i}.{weight,bias}` the
head's (odd indices are its ReLUs). Kernels are (out, in) there and (in, out) here.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from probegen_jax.errors import UserError

_LAYER = re.compile(r"(tokens_generator|points_mixer)\.(\d+)\.(weight|bias)")


def from_official(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """An official ProbeGen `state_dict` as the parameters of our model.

    Args:
      state: arrays by official name, for a vector probe generator.

    Returns:
      Parameters as `nnx.to_pure_dict` gives them for `ProbeGen`: a generator with `latents` and
      `layers`, or with `probes` alone where the checkpoint has no generator layers; and a head.

    Raises:
      UserError: a tensor with a name that no part of the model has, or no tensor named `input`.
    """
    layers: dict[str, dict[int, dict[str, np.ndarray]]] = {
        "tokens_generator": {},
        "points_mixer": {},
    }
    for name, tensor in state.items():
        if name == "input":
            continue
        match = _LAYER.fullmatch(name)
        if match is None:
            raise UserError(f"official checkpoint: no part of ProbeGen is called {name!r}")
        part, index, kind = match.groups()
        layer = layers[part].setdefault(int(index), {})
        layer["kernel" if kind == "weight" else "bias"] = (
            np.ascontiguousarray(tensor.T) if kind == "weight" else np.asarray(tensor)
        )
    if "input" not in state:
        raise UserError("official checkpoint: no tensor named 'input' (latents or free probes)")

    def numbered(part: str) -> dict[int, dict[str, np.ndarray]]:
        return {i: layers[part][index] for i, index in enumerate(sorted(layers[part]))}

    generator = (
        {"latents": np.asarray(state["input"]), "layers": numbered("tokens_generator")}
        if layers["tokens_generator"]
        else {"probes": np.asarray(state["input"])}
    )
    return {"generator": generator, "head": {"layers": numbered("points_mixer")}}


def to_official(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_official`: our parameters under the official names, bit for bit."""
    generator = params["generator"]
    state = {"input": np.asarray(generator.get("latents", generator.get("probes")))}
    parts = (
        ("tokens_generator", generator.get("layers", {}), 1),
        ("points_mixer", params["head"]["layers"], 2),
    )
    for part, layers, stride in parts:
        for index, layer in layers.items():
            name = f"{part}.{int(index) * stride}"
            state[f"{name}.weight"] = np.ascontiguousarray(np.asarray(layer["kernel"]).T)
            state[f"{name}.bias"] = np.asarray(layer["bias"])
    return state
