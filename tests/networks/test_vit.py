"""Vision transformers against their formula in NumPy, and against the libraries' own modules."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, softmax
from vits import SMALL, in_layout, random_networks, random_state

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks import registry, vit_files
from probegen_jax.networks.options import Options, ReadOptions
from probegen_jax.networks.vit import VitSpec


def plain(spec, weights, images):
    """A vision transformer by its definition, patch by patch and head by head."""
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), weights)

    def norm(x, layer):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + spec.norm_eps)
        return x * layer["weight"] + layer["bias"]

    def linear(x, layer):
        return x @ layer["weight"].T + layer["bias"]

    side, (height, across, _) = spec.patch_size, spec.image_shape
    answers = []
    for image in np.asarray(images, np.float64):
        tokens = [weights["class_token"]]
        for row in range(0, height, side):
            for column in range(0, across, side):
                patch = image[row : row + side, column : column + side].transpose(2, 0, 1)
                tokens.append(linear(patch.ravel(), weights["patches"]))
        x = np.stack(tokens) + weights["positions"]
        for n in range(spec.depth):
            block = jax.tree.map(lambda leaf, n=n: leaf[n], weights["blocks"])
            q, k, v = np.split(linear(norm(x, block["norm1"]), block["qkv"]), 3, axis=-1)
            heads = []
            for head in np.split(np.arange(spec.width), spec.heads):
                scores = q[:, head] @ k[:, head].T / math.sqrt(len(head))
                heads.append(softmax(scores, axis=-1) @ v[:, head])
            x = x + linear(np.concatenate(heads, axis=-1), block["out"])
            hidden = linear(norm(x, block["norm2"]), block["fc1"])
            x = x + linear(hidden * (1 + erf(hidden / math.sqrt(2))) / 2, block["fc2"])
        answers.append(linear(norm(x[0], weights["norm"]), weights["head"]))
    return np.stack(answers)


def test_it_is_its_formula_and_blocks_of_networks_and_of_layers_change_nothing(monkeypatch):
    networks = random_networks(SMALL, 3)
    _, weights = SMALL.stack(networks)
    assert SMALL.num_weights == sum(leaf.size for leaf in jax.tree.leaves(networks[0]))
    probes = jax.random.normal(jax.random.key(0), (4, *SMALL.probe_shape))
    responses = jax.jit(SMALL.respond)(weights, probes)
    for n, network in enumerate(networks):
        np.testing.assert_allclose(responses[n], plain(SMALL, network, probes), atol=1e-5)

    def gradient(spec):
        return jax.jit(jax.grad(lambda p: jnp.sum(spec.respond(weights, p))))(probes)

    ours = gradient(SMALL)
    step = 1e-4 * np.random.default_rng(3).standard_normal(probes.shape)
    ahead, behind = (
        sum(plain(SMALL, each, np.float64(probes) + by).sum() for each in networks)
        for by in (step, -step)
    )
    np.testing.assert_allclose(2 * np.sum(np.float64(ours) * step), ahead - behind, rtol=1e-4)
    monkeypatch.setattr("probegen_jax.networks.vit._KEPT_BYTES", 0)
    np.testing.assert_allclose(gradient(SMALL.with_options(Options(2))), ours, atol=1e-4)
    assert registry.from_json(registry.to_json(SMALL)) == SMALL
    start = jax.eval_shape(SMALL.init, jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.shape, start) == jax.tree.map(
        lambda leaf: leaf.shape, SMALL.abstract()
    )


def test_depth_does_not_unroll():
    def size(depth):
        spec = dataclasses.replace(SMALL, depth=depth)
        weights = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), spec.abstract()
        )
        probes = jax.ShapeDtypeStruct((3, *spec.probe_shape), jnp.float32)
        gradient = jax.grad(lambda p, w: jnp.sum(spec.respond(w, p) ** 2))
        return len(jax.jit(gradient).lower(probes, weights).as_text())

    assert size(24) < 1.05 * size(3)


GIVEN = {"heads": 2, "norm_eps": 1e-3, "image_size": (8, 12)}


@pytest.mark.parametrize("layout", vit_files._LAYOUTS)
def test_every_librarys_names_are_read(layout):
    (network,) = random_networks(SMALL, 1)
    state = {f"model.{key}": leaf for key, leaf in in_layout(layout, network).items()}
    assert VitSpec.from_files(None, state, "a", GIVEN) == SMALL
    config = {"num_attention_heads": 2, "image_size": [8, 12], "layer_norm_eps": 1e-3}
    assert VitSpec.from_files(config, state, "a", {}) == SMALL
    state["model.pooler.dense.weight"] = np.ones((12, 12), np.float32)
    read = SMALL.read(state, None, "a", ReadOptions())
    jax.tree.map(np.testing.assert_array_equal, read, network)


def test_queries_keys_and_values_may_have_no_bias():
    (network,) = random_networks(SMALL, 1)
    state = in_layout("Hugging Face", network)
    for key in [key for key in state if ".attention.attention." in key and key.endswith("bias")]:
        del state[key]
    network["blocks"]["qkv"]["bias"] = np.zeros((3, 36), np.float32)
    read = SMALL.read(state, None, "a", ReadOptions())
    jax.tree.map(np.testing.assert_array_equal, read, network)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dist_token": (1, 1, 12)}, "has dist_token, of a distillation token, which is not"),
        ({"blocks.1.ls1.gamma": (12,)}, "has blocks.1.ls1.gamma, of layer scale, which is not"),
        ({"blocks.0.attn.q_norm.weight": (4,)}, "of norms of queries and keys, which is not"),
        ({"blocks.3.norm1.weight": (12,)}, "has blocks.3.norm1.weight, which such a network has"),
        ({"cls_token": None}, "is no vision transformer: .*timm's names need cls_token"),
        ({"blocks.0.norm1.weight": None}, "timm's names need blocks.0.norm1.weight"),
        ({"blocks.1.mlp.fc2.bias": None}, "has no blocks.1.mlp.fc2.bias, as timm's vision"),
        ({"head.weight": (6, 12)}, r"head.weight has shape \(6, 12\), this zoo's networks \(5, 12"),
        ({"pos_embed": (7, 12)}, "its positions are not of shape"),
    ],
)
def test_what_is_no_such_network_is_told_by_its_key(change, told):
    (network,) = random_networks(SMALL, 1)
    state = in_layout("timm", network)
    for key, shape in change.items():
        state.pop(key, None)
        if shape is not None:
            state[key] = np.ones(shape, np.float32)
    with pytest.raises(BadNetworkError, match=told):
        SMALL.read(state, None, "a.pth", ReadOptions())


def test_what_the_files_do_not_say_is_asked_for_and_what_cannot_be_is_refused():
    (network,) = random_networks(SMALL, 1)
    state = in_layout("timm", network)
    for config, given, told in (
        (None, {"image_size": (8, 12)}, r"how many heads .*--config.heads=N; 1, if each has 64"),
        (None, {"heads": 3}, "positions for 6 patches, but images of 8×8 pixels have 4 of 4×4"),
        ({"hidden_act": "gelu_new"}, GIVEN, "its config.json says hidden_act 'gelu_new', not 'gel"),
        ({"model_type": "beit"}, GIVEN, "its config.json says model_type 'beit', not 'vit'"),
        ({"image_size": "8"}, {"heads": 2}, "its image_size is '8', not one or two whole numbers"),
        ({"num_attention_heads": "2"}, {"image_size": (8, 12)}, "network: heads is '2'"),
    ):
        with pytest.raises(UserError, match=told):
            VitSpec.from_files(config, state, "a.pth", given)
    with pytest.raises(BadNetworkError, match=r"config.json says num_attention_heads 4, not 2"):
        SMALL.read(state, {"num_attention_heads": 4}, "a.pth", ReadOptions())
    for change, told in (
        ({"heads": 5}, "tokens of 12 values cannot be split into 5 heads"),
        ({"patch_size": 5}, "images of 8×12 pixels cannot be cut into patches of 5×5"),
        ({"depth": 0}, "depth is 0; it must be at least 1"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0"),
        ({"width": 3 * 10**5}, "is too large"),
    ):
        with pytest.raises(UserError, match=told):
            dataclasses.replace(SMALL, **change)


SIZES = {"small": (32, 8, 36, 2, 3, 72, 7), "tiny": (224, 16, 192, 12, 3, 768, 1000)}
SIZES["base"] = (224, 16, 768, 12, 12, 3072, 1000)


def of_transformers(image, patch, width, depth, heads, mlp, classes):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=mlp,
        image_size=image,
        patch_size=patch,
        num_labels=classes,
    )
    return ViTForImageClassification(config), config.to_dict(), lambda out: out.logits


def of_torchvision(image, patch, width, depth, heads, mlp, classes):
    from torchvision.models import VisionTransformer

    module = VisionTransformer(image, patch, depth, heads, width, mlp, num_classes=classes)
    return module, None, lambda out: out


def of_timm(image, patch, width, depth, heads, mlp, classes):
    from timm.models.vision_transformer import VisionTransformer

    module = VisionTransformer(
        img_size=image,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp / width,
        num_classes=classes,
    )
    return module, None, lambda out: out


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("library", ["transformers", "torchvision", "timm"])
def test_it_answers_as_the_libraries_own_modules_do(library, size):
    pytest.importorskip(library)
    torch = pytest.importorskip("torch")
    makers = {"transformers": of_transformers, "torchvision": of_torchvision, "timm": of_timm}
    module, config, logits = makers[library](*SIZES[size])
    module.eval()
    shapes = {key: tuple(x.shape) for key, x in module.state_dict().items()}
    state = random_state(shapes, seed=5)
    module.load_state_dict({key: torch.tensor(x) for key, x in state.items()})
    given = {} if config else {"heads": SIZES[size][4]}
    spec = VitSpec.from_files(config, state, "a", given)
    side, patch, *rest = SIZES[size]
    assert dataclasses.astuple(spec)[:7] == ((side, side, 3), patch, *rest[:4], rest[4])
    weights = spec.read(state, None, "a", ReadOptions())
    images = np.random.default_rng(1).standard_normal((2, *spec.probe_shape), np.float32)
    given = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    theirs = logits(module(given))
    shares = np.random.default_rng(2).standard_normal(theirs.shape, np.float32)
    (theirs * torch.tensor(shares)).sum().backward()
    _, stacked = spec.stack([weights])
    responses = jax.jit(spec.respond)(stacked, images)[0]
    assert _distance(responses, theirs.detach().numpy()) < 1e-5
    ours = jax.jit(jax.grad(lambda p: jnp.sum(spec.respond(stacked, p) * shares[None])))(images)
    assert _distance(ours.transpose(0, 3, 1, 2), given.grad.numpy()) < 1e-4


def _distance(ours, theirs):
    """The largest difference, in units of the largest value."""
    return float(np.max(np.abs(np.asarray(ours) - theirs)) / np.max(np.abs(theirs)))
