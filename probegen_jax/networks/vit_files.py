"""Vision transformers from the names of Hugging Face, torchvision and timm."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from probegen_jax.errors import BadNetworkError, UnknownNamesError

State = Mapping[str, np.ndarray]

_ONCE = ("class_token", "positions", "patches", "norm", "head")
# Of each library: what our arrays are called, before "weight" and "bias". `{}` is a block's number;
# of several names the arrays are put together.
_LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "Hugging Face": {
        "class_token": ("vit.embeddings.cls_token",),
        "positions": ("vit.embeddings.position_embeddings",),
        "patches": ("vit.embeddings.patch_embeddings.projection.",),
        "norm1": ("vit.encoder.layer.{}.layernorm_before.",),
        "qkv": tuple(
            f"vit.encoder.layer.{{}}.attention.attention.{name}."
            for name in ("query", "key", "value")
        ),
        "out": ("vit.encoder.layer.{}.attention.output.dense.",),
        "norm2": ("vit.encoder.layer.{}.layernorm_after.",),
        "fc1": ("vit.encoder.layer.{}.intermediate.dense.",),
        "fc2": ("vit.encoder.layer.{}.output.dense.",),
        "norm": ("vit.layernorm.",),
        "head": ("classifier.",),
    },
    # What version 5 has in memory, and writes with `torch.save`.
    "Hugging Face 5": {
        "class_token": ("vit.embeddings.cls_token",),
        "positions": ("vit.embeddings.position_embeddings",),
        "patches": ("vit.embeddings.patch_embeddings.projection.",),
        "norm1": ("vit.layers.{}.layernorm_before.",),
        "qkv": tuple(f"vit.layers.{{}}.attention.{name}_proj." for name in "qkv"),
        "out": ("vit.layers.{}.attention.o_proj.",),
        "norm2": ("vit.layers.{}.layernorm_after.",),
        "fc1": ("vit.layers.{}.mlp.fc1.",),
        "fc2": ("vit.layers.{}.mlp.fc2.",),
        "norm": ("vit.layernorm.",),
        "head": ("classifier.",),
    },
    "torchvision": {
        "class_token": ("class_token",),
        "positions": ("encoder.pos_embedding",),
        "patches": ("conv_proj.",),
        "norm1": ("encoder.layers.encoder_layer_{}.ln_1.",),
        "qkv": ("encoder.layers.encoder_layer_{}.self_attention.in_proj_",),
        "out": ("encoder.layers.encoder_layer_{}.self_attention.out_proj.",),
        "norm2": ("encoder.layers.encoder_layer_{}.ln_2.",),
        "fc1": ("encoder.layers.encoder_layer_{}.mlp.0.",),
        "fc2": ("encoder.layers.encoder_layer_{}.mlp.3.",),
        "norm": ("encoder.ln.",),
        "head": ("heads.head.",),
    },
    "timm": {
        "class_token": ("cls_token",),
        "positions": ("pos_embed",),
        "patches": ("patch_embed.proj.",),
        "norm1": ("blocks.{}.norm1.",),
        "qkv": ("blocks.{}.attn.qkv.",),
        "out": ("blocks.{}.attn.proj.",),
        "norm2": ("blocks.{}.norm2.",),
        "fc1": ("blocks.{}.mlp.fc1.",),
        "fc2": ("blocks.{}.mlp.fc2.",),
        "norm": ("norm.",),
        "head": ("head.",),
    },
}
_BLOCK = [name for name in _LAYOUTS["timm"] if name not in _ONCE]
_ALONE = ("class_token", "positions")  # with neither "weight" nor "bias"
# Of other transformers, by parts of their names.
_FOREIGN = {
    "distillation_token|dist_token|head_dist": "a distillation token",
    "reg_token|register_tokens": "register tokens",
    r"\.ls[12]\.|layer_scale|lambda_?[12]|gamma": "layer scale",
    "[qk]_norm": "norms of queries and keys",
    "fc_norm|attn_pool": "another pooling than the class token",
    "norm_pre|ln_pre": "a norm before the blocks",
    "relative_position|rel_pos|rope": "relative positions",
    "decoder|mask_token": "a decoder of masked patches",
}
_LEFT_OUT = re.compile(r"(^|\.)(pooler\..*|num_batches_tracked|position_ids)$")
# Of the settings that a config.json of Hugging Face may have otherwise.
_READ = {"model_type": "vit", "hidden_act": "gelu"}
# Of a spec, what the arrays do not tell.
_SAID = {"heads": "num_attention_heads", "norm_eps": "layer_norm_eps"}


def architecture(
    config: Mapping[str, Any] | None, state: State, name: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """What a `VitSpec` is made from, of a network's files.

    Args:
      config: Hugging Face's config.json, where there is one.
      state: the arrays, by their names in the file.
      given: what the user says of `heads`, `norm_eps` and `image_size`, where it is not None.

    Raises:
      UnknownNamesError: names of other networks.
      BadNetworkError: a transformer of another kind, or the number of heads is not known.
    """
    config = dict(config or {})
    shapes = {key: array.shape for key, array in state.items()}
    layout, prefix = _layout(shapes, name)
    check_config(config, {}, name)

    def shape(part: str) -> tuple[int, ...]:
        (first, *_), end = _LAYOUTS[layout][part], "" if part in _ALONE else "weight"
        key = prefix + first.format(0) + end
        if key not in shapes:
            raise BadNetworkError(name, f"has no {key}, as {layout}'s vision transformers have")
        return shapes[key]

    depth = _depth(shapes, layout, prefix)
    width, channels, side, _ = (*shape("patches"), 0, 0, 0)[:4]
    patches = shape("positions")[1] - 1 if len(shape("positions")) == 3 else 0
    size = given.get("image_size") or config.get("image_size")
    if size is None:
        size = math.isqrt(max(patches, 0)) * side
    sizes = size if isinstance(size, list | tuple) else (size, size)
    if len(sizes) != 2 or not all(type(each) is int for each in sizes):
        raise BadNetworkError(name, f"its image_size is {size!r:.80}, not one or two whole numbers")
    height, across = sizes
    said = {key: given.get(key) or config.get(theirs) for key, theirs in _SAID.items()}
    heads, eps = said["heads"], said["norm_eps"]
    if heads is None:
        raise BadNetworkError(
            name,
            "no config.json beside it says how many heads its attention has",
            f"give --config.heads=N; {max(1, width // 64)}, if each has 64 values as usual",
        )
    if side and height // side * (across // side) != patches:
        raise BadNetworkError(
            name,
            f"has positions for {patches} patches, but images of {height}×{across} pixels have "
            f"{height // side * (across // side)} of {side}×{side}",
            "give --config.image_size=N",
        )
    return {
        "image_shape": (height, across, channels),
        "patch_size": side,
        "width": width,
        "depth": depth,
        "heads": heads,
        "mlp_width": shape("fc1")[0],
        "num_classes": shape("head")[0],
        "norm_eps": eps or (1e-12 if layout.startswith("Hugging") else 1e-6),
    }


def check_config(config: Mapping[str, Any] | None, spec: Mapping[str, Any], name: str) -> None:
    """Raises a `BadNetworkError` if Hugging Face's config.json says that it runs otherwise.

    Args:
      spec: fields of the `VitSpec` that the network is to be read for.
    """
    wanted = _READ | {theirs: spec[key] for key, theirs in _SAID.items() if key in spec}
    for key, value in wanted.items():
        if config and key in config and config[key] != value:
            what = f"its config.json says {key} {config[key]!r:.80}, not {value!r}"
            raise BadNetworkError(name, what)


def weights(state: Mapping[str, np.ndarray], depth: int, name: str) -> dict[str, Any]:
    """Weights as `VitSpec` describes them; a `BadNetworkError` if arrays are missing or left over.

    Queries, keys and values without a bias have one of 0.
    """
    shapes = {key: array.shape for key, array in state.items()}
    layout, prefix = _layout(shapes, name)
    used: set[str] = set()

    def one(part: str, end: str, block: int = 0) -> np.ndarray:
        keys = [prefix + each.format(block) + end for each in _LAYOUTS[layout][part]]
        if end == "bias" and part == "qkv" and not any(key in state for key in keys):
            return np.zeros(len(one(part, "weight", block)), np.float32)
        for key in keys:
            if key not in state:
                raise BadNetworkError(name, f"has no {key}, as {layout}'s vision transformers have")
        used.update(keys)
        return state[keys[0]] if len(keys) == 1 else np.concatenate([state[key] for key in keys])

    found: dict[str, Any] = {
        "class_token": one("class_token", "").reshape(-1),
        "positions": one("positions", "").squeeze(0) if one("positions", "").ndim == 3 else None,
    }
    if found["positions"] is None:
        raise BadNetworkError(name, "its positions are not of shape (1, tokens, width)")
    for part in ("patches", "norm", "head"):
        found[part] = {end: one(part, end) for end in ("weight", "bias")}
    kernel = found["patches"]["weight"]
    found["patches"]["weight"] = kernel.reshape(len(kernel), -1)
    found["blocks"] = {
        part: {
            end: np.stack([one(part, end, block) for block in range(depth)])
            for end in ("weight", "bias")
        }
        for part in _BLOCK
    }
    if others := [key for key in state if key not in used and not _LEFT_OUT.search(key)]:
        raise BadNetworkError(name, f"has {min(others)}, {_why(min(others))}")
    return found


def _layout(keys: Iterable[str], name: str) -> tuple[str, str]:
    """Which library's names these are, and what stands before them all, such as "model."."""
    keys = set(keys)
    missing = {}
    for layout, parts in _LAYOUTS.items():
        markers = [parts["class_token"][0], parts["norm1"][0].format(0) + "weight"]
        for key in keys:
            prefix = key.removesuffix(markers[0])
            clean = prefix == "" or prefix.endswith(".")
            if key.endswith(markers[0]) and clean and prefix + markers[1] in keys:
                return layout, prefix
        missing[layout] = markers[any(key.endswith(markers[0]) for key in keys)]
    tried = ", ".join(f"{layout}'s names need {key}" for layout, key in missing.items())
    raise UnknownNamesError(name, f"is no vision transformer: {tried}")


def _depth(keys: Iterable[str], layout: str, prefix: str) -> int:
    """How many blocks there are."""
    before, _, after = _LAYOUTS[layout]["norm1"][0].partition("{}")
    pattern = re.compile(re.escape(prefix + before) + r"(\d+)" + re.escape(f"{after}weight"))
    return 1 + max(int(match[1]) for key in keys if (match := pattern.fullmatch(key)))


def _why(key: str) -> str:
    for pattern, what in _FOREIGN.items():
        if re.search(pattern, key):
            return f"of {what}, which is not supported"
    return "which such a network has not"
