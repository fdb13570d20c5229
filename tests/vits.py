"""Vision transformers with random weights, as every library would name their arrays."""

import json
import math

import jax
import numpy as np
from safetensors.numpy import save_file

from probegen_jax.networks import vit_files
from probegen_jax.networks.vit import VitSpec

SMALL = VitSpec((8, 12, 2), 4, 12, 3, 2, 20, 5, norm_eps=1e-3)


def random_state(shapes, seed=0):
    """Arrays of these shapes: no bias is 0, no norm is 1, and activations stay of order 1."""
    random = np.random.default_rng(seed)
    state = {}
    for key, shape in shapes.items():
        scale = 0.5 / math.sqrt(math.prod(shape[1:])) if len(shape) in (2, 4) else 0.3
        is_norm = key.endswith("weight") and len(shape) == 1
        state[key] = (is_norm + scale * random.standard_normal(shape)).astype(np.float32)
    return state


def random_networks(spec, number):
    def one(seed):
        named = {
            jax.tree_util.keystr(path): leaf.shape
            for path, leaf in jax.tree.leaves_with_path(spec.abstract())
        }
        leaves = list(random_state(named, seed).values())
        return jax.tree.unflatten(jax.tree.structure(spec.abstract()), leaves)

    return [one(seed) for seed in range(number)]


def in_layout(layout, weights):
    """The arrays of a network as a library names them."""
    names, state = vit_files._LAYOUTS[layout], {}
    for part, keys in names.items():
        inner = weights["blocks"] if "{}" in keys[0] else weights
        if part in ("class_token", "positions"):
            leaf = inner[part]
            state[keys[0]] = leaf.reshape(1, -1, leaf.shape[-1])
            continue
        for end, leaf in inner[part].items():
            if part == "patches" and end == "weight":
                leaf = leaf.reshape(len(leaf), -1, SMALL.patch_size, SMALL.patch_size)
            for n, block in enumerate(leaf if "{}" in keys[0] else [leaf]):
                parts = np.split(block, len(keys))
                state |= {k.format(n) + end: x for k, x in zip(keys, parts, strict=True)}
    return state


def save_model_folder(folder, network, **config):
    """A network in a folder as Hugging Face writes it."""
    folder.mkdir(parents=True)
    state = in_layout("Hugging Face", network)
    save_file(
        {key: np.ascontiguousarray(leaf) for key, leaf in state.items()},
        folder / "model.safetensors",
    )
    said = {"num_attention_heads": SMALL.heads, "image_size": list(SMALL.image_shape[:2])}
    said |= {"layer_norm_eps": SMALL.norm_eps, "model_type": "vit"} | config
    (folder / "config.json").write_text(json.dumps(said))
    means = {"image_mean": [0.5, 0.4], "image_std": [0.2, 0.3], "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(means))
