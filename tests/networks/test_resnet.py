"""ResNets against PyTorch's modules, and what people's files may hold instead."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks import registry
from probegen_jax.networks.contract import ReadOptions
from probegen_jax.networks.resnet.resnet import ResNetSpec
from probegen_jax.zoo.own import networks

torch = pytest.importorskip("torch")

from plain_torch import PlainResNet, with_random_statistics

NARROW = ResNetSpec((4, 8, 12), (2, 1, 1), stem_width=4, image_shape=(8, 8, 1))


def module(spec=NARROW, seed=0):
    torch.manual_seed(seed)
    return with_random_statistics(
        PlainResNet(spec.widths, spec.depths, spec.image_shape[2], spec.num_classes, spec.shortcut),
        seed,
    )


def read(state, spec=NARROW):
    return networks.read(spec, dict(state), "mine", ReadOptions())


def check_equal(spec, modules, probes=3, seed=0):
    """Responses within 1e-5 of the largest, probe gradients within 1e-4."""
    images = np.random.default_rng(seed).standard_normal((probes, *spec.probe_shape), np.float32)
    weights = spec.stack([read(each.state_dict(), spec) for each in modules])[1]
    assert jax.tree.map(lambda leaf: leaf.shape[1:], weights) == jax.tree.map(
        lambda leaf: leaf.shape, spec.abstract()
    )
    x = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    answers = torch.stack([getattr(y := each(x), "logits", y) for each in modules])
    theirs = answers.detach().numpy()
    ours = jax.jit(spec.respond)(weights, images)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
    (answers**2).sum().backward()
    gradient = x.grad.numpy().transpose(0, 2, 3, 1)
    found = jax.jit(jax.grad(lambda p: jnp.sum(spec.respond(weights, p) ** 2)))(images)
    np.testing.assert_allclose(found, gradient, rtol=0, atol=1e-4 * np.abs(gradient).max())


@pytest.mark.parametrize("changes", [{}, {"platform": "gpu"}, {"block_size": 2, "shortcut": "pad"}])
def test_small_ones_answer_as_torch_does_in_every_way_to_run_them(changes):
    spec = dataclasses.replace(NARROW, **changes)
    check_equal(spec, [module(spec, seed) for seed in range(3)])


def test_what_init_gives_is_such_a_network_and_the_spec_survives_json():
    weights = NARROW.init(jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), weights)
    assert shapes == NARROW.abstract()
    assert sum(leaf.size for leaf in jax.tree.leaves(weights)) == NARROW.num_weights
    assert np.std(jax.jit(NARROW.apply)(weights, jnp.ones((2, 8, 8, 1)))) > 0
    assert registry.from_json(registry.to_json(NARROW)) == NARROW
    assert NARROW.with_probe_shape((16, 16, 1)).abstract() == NARROW.abstract()


def without(state, *ends):
    return {name: array for name, array in state.items() if not name.endswith(ends)}


def renamed(state, old, new):
    return {name.replace(old, new): array for name, array in state.items()}


def folded(state):
    """The state dict as its owner would save it, having folded BatchNorm."""
    kept = {name: array for name, array in state.items() if ".conv" in name or "linear" in name}
    kept["conv1.weight"] = state["conv1.weight"]
    kept |= {name: state[name] for name in state if name.endswith("shortcut.0.weight")}
    for name in [name for name in kept if "linear" not in name]:
        conv = name.removesuffix(".weight")
        norm = conv[:-1] + "1" if "shortcut" in conv else conv.replace("conv", "bn")
        mean, var, scale, shift = (
            state[f"{norm}.{last}"] for last in ("running_mean", "running_var", "weight", "bias")
        )
        scale = scale / torch.sqrt(var + 1e-5)
        kept[name] = kept[name] * scale[:, None, None, None]
        kept[f"{conv}.bias"] = shift - mean * scale
    return kept


ALIKE = {
    "longer names": lambda s: {f"module.{name}": array for name, array in s.items()},
    "a checkpoint": lambda s: {"state_dict": s, "epoch": 3},
    "torchvision's names": lambda s: renamed(renamed(s, "shortcut", "downsample"), "linear", "fc"),
    "in float64": lambda s: {name: array.double() for name, array in s.items()},
    "folded": folded,
}


@pytest.mark.parametrize("how", ALIKE)
def test_the_same_network_is_found_however_it_was_saved(how):
    state = module().state_dict()
    for ours, theirs in zip(
        *map(jax.tree.leaves, (read(ALIKE[how](state)), read(state))), strict=True
    ):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def changed(state, name, array):
    return {**state, name: array}


BAD = {
    "no layout": (
        lambda s: renamed(s, "layer", "block"),
        r"no ResNet under known names: torchvision's, timm's need conv1.weight and "
        r"layer1.0.conv1.weight; transformers' need .*; it has conv1.weight, bn1.weight, bn1.bias",
    ),
    "two networks": (
        lambda s: {f"{who}.{name}": s[name] for who in ("student", "teacher") for name in s},
        r"holds several ResNets, under 'student.', 'teacher.'; save one alone",
    ),
    "no statistics": (
        lambda s: without(s, "layer1.0.bn2.running_var"),
        "layer1.0.bn2 has no running_var: a normalisation by the batch itself, or no BatchNorm",
    ),
    "no norm": (
        lambda s: {name: s[name] for name in s if "layer2.0.bn1" not in name},
        "has neither layer2.0.bn1.weight nor layer2.0.conv1.bias",
    ),
    "negative variance": (
        lambda s: changed(s, "bn1.running_var", -s["bn1.running_var"]),
        "bn1.running_var has negative values",
    ),
    "missing": (lambda s: without(s, "layer1.1.conv2.weight"), "has no layer1.1.conv2.weight"),
    "headless": (lambda s: without(s, "linear.weight", "linear.bias"), "has no fc.weight"),
    "another layer": (
        lambda s: changed(s, "layer1.0.se.fc1.weight", torch.ones(2, 4, 1, 1)),
        "has layer1.0.se.fc1.weight, which a ResNet of such blocks has not",
    ),
    "deeper": (
        lambda s: changed(s, "layer1.2.conv1.weight", s["layer1.1.conv1.weight"]),
        "has layer1.2.conv1.weight, which",
    ),
    "wider": (
        lambda s: changed(s, "layer3.0.conv2.weight", torch.ones(12, 13, 3, 3)),
        r"layer3.0.conv2.weight has shape \(12, 13, 3, 3\), not \(12, 12, 3, 3\)",
    ),
    "not finite": (
        lambda s: changed(s, "bn1.bias", s["bn1.bias"] * np.nan),
        "bn1.bias holds NaN or infinite weights",
    ),
    "complex": (
        lambda s: changed(s, "conv1.weight", s["conv1.weight"] * 1j),
        "conv1.weight is complex64, not float32",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_told_in_a_line(case):
    change, fault = BAD[case]
    with pytest.raises(BadNetworkError, match=fault) as error:
        read(change(module().state_dict()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"widths": (), "depths": ()}, "there must be a stage"),
        ({"widths": (4, 0)}, "each number at least 1"),
        ({"strides": (1, 2, 2)}, "one of each for a stage"),
        ({"stem_kernel": 4}, "stem_kernel is 4; it must be odd"),
        ({"block": "bottleneck", "widths": (6, 8)}, "those of bottlenecks are multiples of 4"),
        ({"depths": (600, 600)}, "too large: at most 1000 blocks"),
        ({"image_shape": (10**4, 10**4, 3)}, r"images of \(10000, 10000, 3\) are too large"),
        ({"activation": "swish"}, "unknown activation 'swish'"),
        ({"block_size": 0}, "block_size is 0"),
    ],
)
def test_what_no_resnet_can_be_is_told(values, told):
    with pytest.raises(UserError, match=told):
        ResNetSpec(**{"widths": (4, 8), "depths": (1, 1)} | values)
