"""ResNets against PyTorch's modules, and what people's files may hold instead."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks import registry
from probegen_jax.networks.cnn import forward
from probegen_jax.networks.options import ReadOptions
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


def inferred(state, config=None, **given):
    """The spec of such a state dict."""
    arrays = {name: array.numpy() for name, array in state.items()}
    return ResNetSpec.from_files(config, arrays, "mine", given)


def check_equal(spec, modules, probes=4, seed=0):
    """Responses within 1e-5 of the largest, the probes' gradient within 1e-4.

    The gradient is compared in float64, for of many thousand ReLUs one may be so near to 0 that
    the rounding of float32 decides whether it has a slope.
    """
    images = np.random.default_rng(seed).standard_normal((probes, *spec.probe_shape), np.float32)
    weights = spec.stack([read(each.state_dict(), spec) for each in modules])[1]
    assert jax.tree.map(lambda leaf: leaf.shape[1:], weights) == jax.tree.map(
        lambda leaf: leaf.shape, spec.abstract()
    )
    x = torch.tensor(images.transpose(0, 3, 1, 2))
    theirs = answers(modules, x).detach().numpy()
    ours = jax.jit(spec.respond)(weights, images)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())

    x = x.double().requires_grad_()
    exact = [each.double() for each in modules]
    (answers(exact, x) ** 2).sum().backward()
    gradient = x.grad.numpy().transpose(0, 2, 3, 1)
    states = [{k: v.numpy() for k, v in each.state_dict().items()} for each in exact]
    with jax.enable_x64(True):
        weights = spec.stack([spec.read(each, None, "mine", ReadOptions()) for each in states])[1]
        found = jax.jit(jax.grad(lambda p: jnp.sum(spec.respond(weights, p) ** 2)))(
            images.astype(np.float64)
        )
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, gradient, rtol=0, atol=1e-4 * np.abs(gradient).max())


def answers(modules, x):
    return torch.stack([getattr(y := each(x), "logits", y) for each in modules])


@pytest.mark.parametrize("changes", [{}, {"platform": "gpu"}, {"block_size": 2, "shortcut": "pad"}])
def test_small_ones_answer_as_torch_does_in_every_way_to_run_them(changes, monkeypatch):
    monkeypatch.setattr(forward, "MOST_PATCH_VALUES", 10_000)  # enough for some of the layers
    spec = dataclasses.replace(NARROW, **changes)
    check_equal(spec, [module(spec, seed) for seed in range(3)])


@pytest.mark.parametrize("shortcut", ["conv", "pad"])
def test_files_tell_all_but_the_size_of_images(shortcut):
    spec = dataclasses.replace(NARROW, shortcut=shortcut)
    state = module(spec).state_dict()
    assert inferred(state, image_size=8, strides=None) == spec
    assert inferred(state, image_size=(6, 4), activation="gelu", stem_pool=True) == (
        dataclasses.replace(spec, image_shape=(6, 4, 1), activation="gelu", stem_pool=True)
    )
    with pytest.raises(BadNetworkError, match="how large its images are"):
        inferred(state)


HF = {"model_type": "resnet", "hidden_act": "relu", "downsample_in_bottleneck": False}
TIMM = {"architecture": "resnet8", "pretrained_cfg": {"input_size": [1, 8, 8]}}


def test_what_else_matters_is_in_the_config_of_transformers():
    state = module().state_dict()
    assert inferred(state, TIMM) == inferred(state, HF, image_size=8) == NARROW
    other = HF | {"downsample_in_first_stage": True}
    assert inferred(state, other, image_size=8).strides == (2, 2, 2)
    assert inferred(state, other, image_size=8, strides=(1, 1, 1)).strides == (1, 1, 1)
    arrays = {name: array.numpy() for name, array in state.items()}
    NARROW.read(arrays, HF, "mine", ReadOptions())
    with pytest.raises(BadNetworkError, match=r"says strides \(2, 2, 2\), not None"):
        NARROW.read(arrays, other, "mine", ReadOptions())
    with pytest.raises(BadNetworkError, match="its hidden_act is 'gelu'"):
        inferred(state, HF | {"hidden_act": "gelu"})
    with pytest.raises(BadNetworkError, match="says model_type 'vit', which is no ResNet"):
        inferred(state, {"model_type": "vit"})


@pytest.mark.parametrize(
    ("names", "shape", "fault"),
    [
        (["conv1"], (4, 1, 5, 5), "first convolution is 5×5, .*; give --config.stem_stride=N"),
        (
            [f"layer{stage}.0.conv3" for stage in (1, 2, 3)],
            (12, 4, 1, 1),
            "blocks are 4 channels wide inside, and put out 12: wide ResNets",
        ),
        (["linear"], (), "has no linear.weight, as torchvision's, timm's ResNets have"),
    ],
)
def test_what_no_spec_can_be_made_of_is_told(names, shape, fault):
    state = module().state_dict()
    state |= {f"{name}.weight": torch.ones(shape) for name in names}
    with pytest.raises(BadNetworkError, match=fault):
        inferred(state, image_size=8)


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


# The libraries that people take ResNets from; requirements-oracles.txt installs them.
# Block, channels of the first stage's blocks (inside, if bottlenecks), depths.
SIZES = {18: ("basic", 64, (2, 2, 2, 2)), 50: ("bottleneck", 64, (3, 4, 6, 3))}
_KINDS = {"basic": "BasicBlock", "bottleneck": "Bottleneck"}


def of_torchvision(block, width, depths):
    from torchvision.models import resnet as torchvisions

    return torchvisions.ResNet(getattr(torchvisions, _KINDS[block]), list(depths), num_classes=7)


def of_timm(block, width, depths):
    from timm.models import resnet as timms

    channels = tuple(width * 2**stage for stage in range(len(depths)))
    kind = getattr(timms, _KINDS[block])
    return timms.ResNet(kind, depths, num_classes=7, channels=channels)


def of_transformers(block, width, depths, **options):
    from transformers import ResNetConfig, ResNetForImageClassification

    outside = 4 * width if block == "bottleneck" else width
    sizes = [outside * 2**stage for stage in range(len(depths))]
    config = ResNetConfig(
        layer_type=block, hidden_sizes=sizes, depths=list(depths), num_labels=7, **options
    )
    return ResNetForImageClassification(config)


def check(make, which, size=64, **options):
    torch.manual_seed(0)
    model = with_random_statistics(make(*which, **options))
    config = model.config.to_dict() if hasattr(model, "config") else None
    spec = inferred(model.state_dict(), config, image_size=size)
    check_equal(spec, [model])
    return spec


@pytest.mark.slow
@pytest.mark.parametrize("depth", SIZES)
@pytest.mark.parametrize("library", ["torchvision", "timm", "transformers"])
def test_resnet_18_and_50_answer_as_their_modules_do(library, depth):
    pytest.importorskip(library)
    makers = {"torchvision": of_torchvision, "timm": of_timm, "transformers": of_transformers}
    spec = check(makers[library], SIZES[depth])
    assert (spec.stem_width, spec.stem_kernel, spec.stem_pool) == (64, 7, True)
    assert sum(spec.depths) == {18: 8, 50: 16}[depth]


@pytest.mark.slow
@pytest.mark.parametrize("block", _KINDS)
def test_what_else_transformers_can_be_told(block):
    pytest.importorskip("transformers")
    spec = check(
        of_transformers,
        (block, 4, (1, 2)),
        size=21,
        embedding_size=6,
        downsample_in_first_stage=True,
        downsample_in_bottleneck=True,
    )
    assert spec.strides == (2, 2)
