"""Our parameters beside the official PyTorch code's `state_dict`.

Official names: `input` holds the latents, or the free probes where there is no generator;
`tokens_generator.i.{weight,bias}` the generator's layers, `tokens_generator.main.i` where they
make images; `points_mixer.{2i}.{weight,bias}` the head's (odd indices are its ReLUs). Linear
kernels are (out, in) there and (in, out) here; transposed convolutions (in, out, k, k) there and
(k, k, in, out) here, not flipped (see `layers.ConvTranspose`); images (P, C, H, W) there and
(P, H, W, C) here.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from probegen_jax.errors import UserError

_LAYER = re.compile(r"(tokens_generator|points_mixer)(?:\.main)?\.(\d+)\.(weight|bias)")

# Axes of their tensors, by number of dimensions, as ours: linear kernels, and those of transposed
# convolutions; and probes or latents, which are images where they have four axes.
_KERNEL_AXES = {2: (1, 0), 4: (2, 3, 0, 1)}
_INPUT_AXES = {2: (0, 1), 4: (0, 2, 3, 1)}


def _transpose(tensor: np.ndarray, axes: tuple[int, ...], inverse: bool = False) -> np.ndarray:
    order = np.argsort(axes) if inverse else axes
    return np.ascontiguousarray(np.asarray(tensor).transpose(order))


def from_official(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """An official ProbeGen `state_dict` as the parameters of our model.

    Args:
      state: arrays by official name, from a generator of vectors or of images.

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
            _transpose(tensor, _KERNEL_AXES[tensor.ndim])
            if kind == "weight"
            else np.asarray(tensor)
        )
    if "input" not in state:
        raise UserError("official checkpoint: no tensor named 'input' (latents or free probes)")

    def numbered(part: str) -> dict[int, dict[str, np.ndarray]]:
        return {i: layers[part][index] for i, index in enumerate(sorted(layers[part]))}

    inputs = _transpose(state["input"], _INPUT_AXES[state["input"].ndim])
    generator = (
        {"latents": inputs, "layers": numbered("tokens_generator")}
        if layers["tokens_generator"]
        else {"probes": inputs}
    )
    return {"generator": generator, "head": {"layers": numbered("points_mixer")}}


def to_official(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_official`: our parameters under the official names, bit for bit."""
    generator = params["generator"]
    inputs = np.asarray(generator.get("latents", generator.get("probes")))
    state = {"input": _transpose(inputs, _INPUT_AXES[inputs.ndim], inverse=True)}
    images = ".main" if inputs.ndim == 4 else ""
    parts = (
        (f"tokens_generator{images}", generator.get("layers", {}), 1),
        ("points_mixer", params["head"]["layers"], 2),
    )
    for part, layers, stride in parts:
        for index, layer in layers.items():
            name = f"{part}.{int(index) * stride}"
            kernel = np.asarray(layer["kernel"])
            state[f"{name}.weight"] = _transpose(kernel, _KERNEL_AXES[kernel.ndim], inverse=True)
            state[f"{name}.bias"] = np.asarray(layer["bias"])
    return state
