"""Our parameters beside the official PyTorch code's `state_dict`.

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
      generator: the official name of the probes' source.
      method: our name of it, "probegen" or "vanilla".
      num_probes: P.
      latent_dim: values of a latent; of ProbeGen only.
      generator_depth: layers from latents to probes; of ProbeGen only.
      generator_width: channels that an image generator's last layer reads; of these only.
      probe_dims: coordinates, or channels, of a probe.
      num_responses: P·R, what the head reads.
      head_width: of the head's hidden layers.
      head_depth: linear layers of the head.
      num_outputs: classes, or 1.
    """

    generator: str
    method: str | None
    num_probes: int | None
    latent_dim: int | None
    generator_depth: int | None
    generator_width: int | None
    probe_dims: int | None
    num_responses: int
    head_width: int
    head_depth: int
    num_outputs: int

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
    head = [params["head"]["layers"][i]["kernel"] for i in sorted(params["head"]["layers"])]
    of_head = {
        "num_responses": head[0].shape[0],
        "head_width": head[0].shape[1],
        "head_depth": len(head),
        "num_outputs": head[-1].shape[1],
    }
    if "generator" not in params:
        return Sizes("no trained probes", None, None, None, None, None, None, **of_head)
    generator = params["generator"]
    inputs = generator.get("latents", generator.get("probes"))
    layers = [layer["kernel"] for _, layer in sorted(generator.get("layers", {}).items())]
    image = inputs.ndim == 4
    name = f"deep_linear_{len(layers)}" if image else f"linear_{len(layers)}_no_acts"
    return Sizes(
        name,
        "probegen" if layers else "vanilla",
        inputs.shape[0],
        inputs.shape[-1] if layers else None,
        len(layers) or None,
        layers[-1].shape[-2] if layers and image else None,
        layers[-1].shape[-1] if layers else inputs.shape[-1],
        **of_head,
    )


def differences(
    state: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Where an official `state_dict` is not of the shapes `expected`: name, both shapes."""
    differing = []
    for name in [*expected, *(name for name in state if name not in expected)]:
        theirs = tuple(state[name].shape) if name in state else None
        ours = expected.get(name)
        if theirs == ours:
            continue
        if theirs is None:
            differing.append(f"{name} is missing, expected {ours}")
        elif ours is None:
            differing.append(f"{name} {theirs} is not expected")
        else:
            differing.append(f"{name} is {theirs}, expected {ours}")
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
        if kind == "weight":
            layer["kernel"] = _transpose(name, tensor, _KERNEL_AXES)
        else:
            layer["bias"] = np.asarray(tensor)

    def numbered(part: str) -> dict[int, dict[str, np.ndarray]]:
        for index, layer in layers[part].items():
            if len(layer) < 2:
                raise UserError(
                    f"official checkpoint: layer {part}.{index} has no "
                    f"{'bias' if 'kernel' in layer else 'weight'}"
                )
        return {i: layers[part][index] for i, index in enumerate(sorted(layers[part]))}

    if not layers["points_mixer"]:
        raise UserError("official checkpoint: no tensor named 'points_mixer.0.weight', so no head")
    head = {"head": {"layers": numbered("points_mixer")}}
    if "input" not in state:
        if layers["tokens_generator"]:
            raise UserError("official checkpoint: a generator, but no tensor named 'input'")
        return head
    inputs = _transpose("input", state["input"], _INPUT_AXES)
    generator = (
        {"latents": inputs, "layers": numbered("tokens_generator")}
        if layers["tokens_generator"]
        else {"probes": inputs}
    )
    return {"generator": generator, **head}


def to_official(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_official`: our parameters under the official names, bit for bit.

    The order is that of the official state dict.
    """
    generator = params.get("generator") or {}
    inputs = generator.get("latents", generator.get("probes"))
    state = {} if inputs is None else {"input": to_official_probes(inputs)}
    images = ".main" if inputs is not None and inputs.ndim == 4 else ""
    parts = (
        (f"tokens_generator{images}", generator.get("layers", {}), 1),
        ("points_mixer", params["head"]["layers"], 2),
    )
    for part, layers, stride in parts:
        for index, layer in sorted(layers.items()):
            name = f"{part}.{int(index) * stride}"
            kernel = np.asarray(layer["kernel"])
            axes = np.argsort(_KERNEL_AXES[kernel.ndim])
            state[f"{name}.weight"] = np.ascontiguousarray(kernel.transpose(axes))
            state[f"{name}.bias"] = np.asarray(layer["bias"])
    return state


def from_official_probes(tensor: np.ndarray) -> np.ndarray:
    """Probes or latents as there, (P, D) or (P, C, H, W), as ours: (P, D) or (P, H, W, C)."""
    return _transpose("input", tensor, _INPUT_AXES)


def to_official_probes(probes: Any) -> np.ndarray:
    """The inverse of `from_official_probes`."""
    probes = np.asarray(probes)
    return np.ascontiguousarray(probes.transpose(np.argsort(_INPUT_AXES[probes.ndim])))


def _transpose(name: str, tensor: np.ndarray, axes: Mapping[int, tuple[int, ...]]) -> np.ndarray:
    tensor = np.asarray(tensor)
    if tensor.ndim not in axes:
        raise UserError(
            f"official checkpoint: {name} is {tensor.shape}; it should have "
            f"{' or '.join(map(str, axes))} axes"
        )
    return np.ascontiguousarray(tensor.transpose(axes[tensor.ndim]))
