"""Our parameters, and the `state_dict` of the official PyTorch code.

Official names: `input` holds the latents, or the free probes where there is no generator;
`tokens_generator.i.{weight,bias}` the generator's layers, `tokens_generator.main.i` where they
make images; `points_mixer.{2i}.{weight,bias}` the head's (odd indices are its ReLUs). Probes that
are not trained are no part of a state dict there: such checkpoints hold the head alone.

Linear kernels are (out, in) there and (in, out) here; transposed convolutions (in, out, k, k) there
and (k, k, in, out) here, not flipped (see `layers.ConvTranspose`); images (P, C, H, W) there and
(P, H, W, C) here.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from probegen_jax.errors import UserError

# The methods that the official code has, by our names; those of fixed probes by kind of probe.
FIXED = {"coordinates": "uniform", "images": "dead_leaves"}
METHODS = ("probegen", "vanilla", *FIXED.values())

_LAYER = re.compile(r"(tokens_generator|points_mixer)(?:\.main)?\.(\d+)\.(weight|bias)")

# Axes of their tensors, by number of dimensions, as ours: linear kernels, and those of transposed
# convolutions; and probes or latents, which are images where they have four axes.
_KERNEL_AXES = {2: (1, 0), 4: (2, 3, 0, 1)}
_INPUT_AXES = {2: (0, 1), 4: (0, 2, 3, 1)}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a checkpoint is, as its names and shapes tell. None where the head alone is stored.

    Attributes:
      num_responses: P·R, what the head reads.
      generator: the official name of the probes' source.
      method: our name of it, "probegen" or "vanilla".
      latent_dim: values of a latent; of ProbeGen only.
      generator_depth: layers from latents to probes; of ProbeGen only.
      generator_width: channels that an image generator's last layer reads; of these only.
      probe_dims: coordinates, or channels, of a probe.
    """

    num_responses: int
    head_width: int
    head_depth: int
    num_outputs: int
    generator: str = "no trained probes"
    method: str | None = None
    num_probes: int | None = None
    latent_dim: int | None = None
    generator_depth: int | None = None
    generator_width: int | None = None
    probe_dims: int | None = None

    def __str__(self) -> str:
        source = "" if self.num_probes is None else f"{self.num_probes} probes of "
        return (
            f"{source}{self.generator} and a head {self.num_responses} → {self.head_width} → "
            f"{self.num_outputs} of {self.head_depth} layers"
        )


def sizes(state: Mapping[str, np.ndarray]) -> Sizes:
    """What an official `state_dict` is.

    Raises:
      UserError: it is no ProbeGen checkpoint; the message says which tensor tells.
    """
    params = from_official(state)
    head = _kernels(params["head"])
    of_head = Sizes(*head[0].shape, len(head), head[-1].shape[1])
    if "generator" not in params:
        return of_head
    inputs, layers = _inputs(params["generator"]), _kernels(params["generator"])
    image = inputs.ndim == 4
    of_probes = {
        "generator": f"deep_linear_{len(layers)}" if image else f"linear_{len(layers)}_no_acts",
        "method": "probegen" if layers else "vanilla",
        "num_probes": inputs.shape[0],
        "probe_dims": layers[-1].shape[-1] if layers else inputs.shape[-1],
    }
    if layers:
        of_probes |= {"latent_dim": inputs.shape[-1], "generator_depth": len(layers)}
    if layers and image:
        of_probes["generator_width"] = layers[-1].shape[-2]
    return dataclasses.replace(of_head, **of_probes)


def _kernels(part: Mapping[str, Any]) -> list[np.ndarray]:
    return [layer["kernel"] for _, layer in sorted(part.get("layers", {}).items())]


def _inputs(generator: Mapping[str, Any]) -> Any:
    """Latents, or probes where no layers make them; None if both are fixed."""
    return generator.get("latents", generator.get("probes"))


def differences(
    state: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Where an official `state_dict` is not of the shapes `expected`: name, both shapes."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    differing = []
    for name in {**expected, **shapes}:
        if name not in shapes:
            differing.append(f"{name} is missing, expected {expected[name]}")
        elif name not in expected:
            differing.append(f"{name} {shapes[name]} is not expected")
        elif shapes[name] != expected[name]:
            differing.append(f"{name} is {shapes[name]}, expected {expected[name]}")
    return differing


def from_official(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """An official ProbeGen `state_dict` as the parameters of our model.

    Args:
      state: arrays by official name, from a generator of vectors or of images, or of a head alone.

    Returns:
      Parameters as `nnx.to_pure_dict` gives them for `ProbeGen`: a generator with `latents` and
      `layers`, or with `probes` alone where the checkpoint has no generator layers, or none where
      the probes were not trained; and a head.

    Raises:
      UserError: a tensor with a name that no part of the model has, or that cannot be that part.
    """
    layers: dict[str, Any] = {"tokens_generator": {}, "points_mixer": {}}
    for name, tensor in state.items():
        if name == "input":
            continue
        match = _LAYER.fullmatch(name)
        if match is None:
            raise UserError(f"official checkpoint: no part of ProbeGen is called {name!r}")
        part, index, kind = match.groups()
        layer = layers[part].setdefault(int(index), {})
        if kind == "weight":
            layer["kernel"] = _to_ours(name, tensor, _KERNEL_AXES)
        else:
            layer["bias"] = np.asarray(tensor)

    def numbered(part: str) -> dict[int, dict[str, np.ndarray]]:
        for index, layer in layers[part].items():
            if len(layer) < 2:
                missing = "bias" if "kernel" in layer else "weight"
                raise UserError(f"official checkpoint: layer {part}.{index} has no {missing}")
        return dict(enumerate(layer for _, layer in sorted(layers[part].items())))

    if not layers["points_mixer"]:
        raise UserError("official checkpoint: no tensor named 'points_mixer.0.weight', so no head")
    head = {"head": {"layers": numbered("points_mixer")}}
    if "input" not in state:
        if layers["tokens_generator"]:
            raise UserError("official checkpoint: a generator, but no tensor named 'input'")
        return head
    inputs = from_official_probes(state["input"])
    if not layers["tokens_generator"]:
        return {"generator": {"probes": inputs}, **head}
    return {"generator": {"latents": inputs, "layers": numbered("tokens_generator")}, **head}


def to_official(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_official`: our parameters under the official names, bit for bit.

    The order is that of the official state dict.
    """
    generator = params.get("generator") or {}
    inputs = _inputs(generator)
    state = {} if inputs is None else {"input": to_official_probes(inputs)}
    images = ".main" if inputs is not None and inputs.ndim == 4 else ""
    parts = (
        (f"tokens_generator{images}", generator.get("layers", {}), 1),
        ("points_mixer", params["head"]["layers"], 2),
    )
    for part, layers, stride in parts:
        for index, layer in sorted(layers.items()):
            name = f"{part}.{int(index) * stride}"
            state[f"{name}.weight"] = _to_theirs(layer["kernel"], _KERNEL_AXES)
            state[f"{name}.bias"] = np.asarray(layer["bias"])
    return state


def from_official_probes(tensor: np.ndarray) -> np.ndarray:
    """Probes or latents as there, (P, D) or (P, C, H, W), as ours: (P, D) or (P, H, W, C)."""
    return _to_ours("input", tensor, _INPUT_AXES)


def to_official_probes(probes: Any) -> np.ndarray:
    """The inverse of `from_official_probes`."""
    return _to_theirs(probes, _INPUT_AXES)


def _to_ours(name: str, tensor: np.ndarray, axes: Mapping[int, tuple[int, ...]]) -> np.ndarray:
    tensor = np.asarray(tensor)
    if tensor.ndim not in axes:
        raise UserError(
            f"official checkpoint: {name} is {tensor.shape}; it should have "
            f"{' or '.join(map(str, axes))} axes"
        )
    return np.ascontiguousarray(tensor.transpose(axes[tensor.ndim]))


def _to_theirs(array: Any, axes: Mapping[int, tuple[int, ...]]) -> np.ndarray:
    array = np.asarray(array)
    return np.ascontiguousarray(array.transpose(np.argsort(axes[array.ndim])))
