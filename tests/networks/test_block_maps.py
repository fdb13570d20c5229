"""Maps of ResNets and vision transformers: what PyTorch's forward hooks see, in any way to run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_maps import everything, summary
from vits import SMALL, random_networks, random_state

from probegen_jax.networks import map_summaries, maps
from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.options import Options, ReadOptions
from probegen_jax.networks.resnet.resnet import ResNetSpec
from probegen_jax.networks.vit import VitSpec

torch = pytest.importorskip("torch")

from plain_torch import PlainResNet, with_random_statistics
from torch import nn

RESNET = ResNetSpec((4, 8), (2, 1), stem_width=4, image_shape=(9, 8, 1), num_classes=3)
WAYS = [{}, {"platform": "gpu"}, {"block_size": 2}]
SLOW = pytest.mark.slow
# Of the 96 numbers of cells and 14 of whole maps that `everything` gives.
SHARES = [101, 102, 108, 109]


def numbers(pairs, widest):
    """What `everything` makes of pairs of maps (P, C, h, w): (P, L, K)."""
    layers = []
    for pair in pairs:
        cells, wholes = zip(*map(summary, pair), strict=True)
        values = np.concatenate([*cells, *wholes], axis=1)
        values = np.pad(values, [(0, 0), (0, 0), (0, widest - values.shape[2])])
        layers.append(values.reshape(len(values), -1))
    return np.stack(layers, axis=1)


def to_torch(probes):
    return torch.tensor(np.asarray(probes).transpose(0, 3, 1, 2))


def of_plain_resnet(module, probes):
    """What hooks see: of the stem, and of each block the sum and what it puts out."""
    found = []

    def of_stem(_, given, out):
        found.append((out, torch.relu(out)))

    def of_sum(block):
        inner = []
        block.bn2.register_forward_hook(lambda _, given, out: inner.append(out))
        block.register_forward_hook(
            lambda block, given, out: found.append((inner[-1] + block.around(given[0]), out))
        )

    module.bn1.register_forward_hook(of_stem)
    for stage in (1, 2):
        for block in getattr(module, f"layer{stage}"):
            of_sum(block)
    logits = module(to_torch(probes))
    return logits.detach().numpy(), found


def plain_resnets(number):
    made = []
    for seed in range(number):
        torch.manual_seed(seed)
        module = PlainResNet(RESNET.widths, RESNET.depths, 1, RESNET.num_classes)
        made.append(with_random_statistics(module, seed))
    return made


def of_encoder_layers(spec, network, probes):
    """What hooks see of PyTorch's own transformer blocks, of all tokens but the first."""
    network, found = jax.tree.map(torch.tensor, network), []
    side, width = spec.patch_size, spec.width
    patches = nn.functional.unfold(to_torch(probes), side, stride=side).transpose(1, 2)
    x = nn.functional.linear(patches, network["patches"]["weight"], network["patches"]["bias"])
    first = network["class_token"].expand(len(x), 1, width)
    x = torch.cat([first, x], dim=1) + network["positions"]
    ours = {"self_attn.in_proj_": "qkv", "self_attn.out_proj.": "out", "norm1.": "norm1"}
    ours |= {"norm2.": "norm2", "linear1.": "fc1", "linear2.": "fc2"}
    for n in range(spec.depth):
        block = nn.TransformerEncoderLayer(
            width, spec.heads, spec.mlp_width, 0.0, "gelu", spec.norm_eps, True, True
        )
        ends = ("weight", "bias")
        block.load_state_dict(
            {name + e: network["blocks"][own][e][n] for name, own in ours.items() for e in ends}
        )
        block.register_forward_hook(lambda _, given, out: found.append((as_map(out, spec),) * 2))
        x = block(x)
    of_norm = network["norm"]["weight"], network["norm"]["bias"]
    norm = nn.functional.layer_norm(x[:, 0], (width,), *of_norm, spec.norm_eps)
    logits = nn.functional.linear(norm, network["head"]["weight"], network["head"]["bias"])
    return logits.detach().numpy(), found


def as_map(tokens, spec):
    height, across, _ = spec.image_shape
    grid = height // spec.patch_size, across // spec.patch_size
    return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)


def check(spec, weights, probes, expected, widest, moved=0):
    """Responses and summaries of maps within 1e-5 of the largest, layer by layer.

    In maps of many pixels, rounding may put some on the other side of a threshold: shares of pixels
    above 0, or near it, may differ by `moved` of them.
    """
    layers = len(expected[0][1])
    queries = jnp.zeros((len(expected), layers, widest))
    run = jax.jit(lambda w, p: spec.respond_with_maps(w, p, everything, queries))
    responses, found = map(np.array, run(weights, probes))
    for n, (logits, pairs) in enumerate(expected):
        assert distance(responses[n], logits) < 1e-5
        wanted = numbers(pairs, widest)
        assert found[n].shape == wanted.shape
        for layer, (before, _) in enumerate(pairs):
            if moved:
                ours, theirs = (x[:, layer].reshape(-1, 110, widest) for x in (found[n], wanted))
                most = (moved + 0.01) / (before.shape[2] * before.shape[3])
                np.testing.assert_allclose(ours[:, SHARES], theirs[:, SHARES], rtol=0, atol=most)
                ours[:, SHARES] = theirs[:, SHARES]
            assert distance(found[n, :, layer], wanted[:, layer]) < 1e-5
    described, there = spec.describe_layers(weights)
    assert described.shape == (len(expected), layers, maps.DESCRIPTION) and there.all()
    sizes = [(x.shape[1], *x.shape[2:]) for _, x in expected[0][1]]
    np.testing.assert_allclose(2 ** described[0, :, 3:6], sizes, rtol=1e-6)
    return np.asarray(described[0])


def distance(ours, theirs):
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


@pytest.fixture(scope="module")
def resnets():
    modules = plain_resnets(3)
    probes = np.random.default_rng(0).standard_normal((4, *RESNET.probe_shape), np.float32)
    states = [{k: v.numpy() for k, v in each.state_dict().items()} for each in modules]
    networks = [RESNET.read(state, None, "a", ReadOptions()) for state in states]
    return RESNET.stack(networks)[1], probes, [of_plain_resnet(each, probes) for each in modules]


@pytest.mark.parametrize("way", [WAYS[0], *(pytest.param(w, marks=SLOW) for w in WAYS[1:])])
def test_maps_of_a_resnets_stem_and_blocks_are_those_of_hooks(way, resnets):
    described = check(dataclasses.replace(RESNET, **way), *resnets, widest=8)
    relu = list(ACTIVATIONS).index("relu")
    assert (described[:, 16 + relu] == 1).all() and (described[:, 16:].sum(axis=1) == 1).all()
    np.testing.assert_array_equal(described[:, 6], 3)  # kernels
    np.testing.assert_array_equal(described[:, 8], [1, 1, 1, 2])  # strides
    np.testing.assert_allclose(2 ** described[:, 2], [1, 4, 4, 4], rtol=1e-6)


@pytest.mark.parametrize("block_size", [None, pytest.param(2, marks=SLOW)])
def test_maps_of_a_transformers_blocks_are_those_of_hooks(block_size, monkeypatch):
    if block_size:
        monkeypatch.setattr("probegen_jax.networks.vit._KEPT_BYTES", 0)
    spec = SMALL.with_options(Options(block_size))
    networks = random_networks(spec, 3)
    probes = np.random.default_rng(0).standard_normal((4, *spec.probe_shape), np.float32)
    expected = [of_encoder_layers(spec, each, probes) for each in networks]
    described = check(spec, spec.stack(networks)[1], probes, expected, widest=12)
    assert (described[:, 16 + list(ACTIVATIONS).index("none")] == 1).all()
    of_place_kernel_stride = described[:, [0, 6, 8]]
    np.testing.assert_array_equal(of_place_kernel_stride, [[0, 1, 1], [0.5, 1, 1], [1, 1, 1]])


def test_large_cells_are_summarised_and_differentiated_as_by_definition():
    """Of 9×10 pixels: more than are joined one by one."""
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 36, 40, 1), np.float32)

    def plain(x):
        cells, pixels = x.reshape(2, 4, 9, 4, 10, 1), x.reshape(2, -1, 1)
        each = [f(cells, axis=(2, 4)).reshape(2, 16, 1) for f in (jnp.mean, jnp.std, jnp.max)]
        whole = [f(pixels, axis=1) for f in (jnp.mean, jnp.std, jnp.min, jnp.max)]
        norm = jnp.log1p(jnp.sqrt(jnp.sum(pixels**2, axis=1)))
        shares = [jnp.mean(near, axis=1) for near in (pixels > 0, jnp.abs(pixels) < 1e-3)]
        return jnp.stack(each, axis=1), jnp.stack([*whole, norm, *shares], axis=1)

    given = [random.standard_normal(shape, np.float32) for shape in ((2, 3, 16, 1), (2, 7, 1))]
    results = []
    for way in (map_summaries.summary, plain):
        found, back = jax.vjp(jax.jit(way), x)
        results.append((*found, *back(tuple(given))))
    for ours, expected in zip(*results, strict=True):
        assert distance(np.asarray(ours), np.asarray(expected)) < 1e-5


def asked(cells, whole, there, query):
    """Of `everything`, a weighted sum over channels."""
    values = everything(cells, whole, there, query)
    return values.reshape(len(values), -1, query.size) @ query


@SLOW
@pytest.mark.parametrize("way", [*WAYS, None])
def test_gradients_are_those_of_a_plain_loop(way, resnets):
    """Of ResNets, and for None of transformers."""
    if way is None:
        spec, weights = SMALL, SMALL.stack(random_networks(SMALL, 3))[1]
        probes, layers = resnets[1][:, :8].repeat(2, 2)[:, :, :12].repeat(2, 3), SMALL.depth
        probes = probes + 0.1 * np.arange(12, dtype=np.float32)[:, None]
    else:
        spec, (weights, probes, _) = dataclasses.replace(RESNET, **way), resnets
        layers = 4
    weights = jax.tree.map(jnp.asarray, weights)
    rng = np.random.default_rng(1)
    queries = rng.standard_normal((3, layers, 12), np.float32)

    def fast(probes, queries):
        return spec.respond_with_maps(weights, probes, asked, queries)

    def plain(probes, queries):
        found = []
        for n in range(3):
            one, read = jax.tree.map(lambda leaf, n=n: leaf[n], weights), []
            if way is None:
                found.append(spec._run(one, spec._cut(probes), asked, queries[n]))
                continue

            def see(before, after, read=read, n=n):
                read.append(maps.read(asked, before, after, queries[n, len(read)]))

            responses = spec.run(one, probes, see=see)
            found.append((responses, jnp.stack(read, axis=1)))
        return tuple(map(jnp.stack, zip(*found, strict=True)))

    shares = [
        rng.standard_normal(x.shape, np.float32) for x in jax.eval_shape(fast, probes, queries)
    ]
    ours, theirs = (
        jax.jit(lambda p, q, f=f: jax.vjp(f, p, q)[1](tuple(shares)))(probes, queries)
        for f in (fast, plain)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert distance(np.asarray(a), np.asarray(b)) < 1e-4


@SLOW
@pytest.mark.parametrize(
    "spec",
    [
        ResNetSpec(
            (8, 8), (1, 1), stem_width=8, stem_kernel=7, stem_stride=2, stem_pool=True,
            image_shape=(224, 224, 3),
        ),
        VitSpec(width=24, depth=3, mlp_width=32, num_classes=4),
    ],
)  # fmt: skip
def test_maps_of_a_batch_are_never_in_memory_together(spec):
    def needed(number):
        weights = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((number, *leaf.shape), leaf.dtype), spec.abstract()
        )
        probes = jax.ShapeDtypeStruct((4, *spec.probe_shape), jnp.float32)
        layers = jax.eval_shape(spec.describe_layers, weights)[0].shape[1]
        queries = jax.ShapeDtypeStruct((number, layers, 24), jnp.float32)

        def loss(probes, weights, queries):
            found = spec.respond_with_maps(weights, probes, asked, queries)
            return sum(jnp.sum(x**2) for x in found)

        step = jax.jit(jax.grad(loss, (0, 2))).lower(probes, weights, queries).compile()
        return step.memory_analysis().temp_size_in_bytes, layers

    (few, layers), (many, _) = needed(2), needed(10)
    # What is read of eight networks more: 110 numbers of each layer and probe, and its gradient.
    assert many - few < 8 * layers * 4 * 110 * 4 * 4 + 2**16
    smallest_map = 4 * 4 * (56 * 56 * 8 if isinstance(spec, ResNetSpec) else 14 * 14 * 24)
    assert many - few < 8 * smallest_map


@SLOW
def test_so_are_those_of_torchvisions_resnet18():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    module = with_random_statistics(models.resnet18(num_classes=7))
    found, inner = [], {}
    blocks = [block for n in (1, 2, 3, 4) for block in getattr(module, f"layer{n}")]

    def before(relu, given):
        inner[relu] = given[0].clone()  # it works in place

    for part in (module, *blocks):
        part.relu.register_forward_pre_hook(before)
    module.relu.register_forward_hook(
        lambda relu, given, out: found.append((inner[relu], out.clone()))
    )
    for block in blocks:
        block.register_forward_hook(
            lambda block, given, out: found.append((inner[block.relu], out.clone()))
        )
    state = {k: v.numpy() for k, v in module.state_dict().items()}
    spec = ResNetSpec.from_files(None, state, "a", {"image_size": 160})  # cells of 20×20 pixels
    probes = np.random.default_rng(0).standard_normal((2, *spec.probe_shape), np.float32)
    logits = module(to_torch(probes)).detach().numpy()
    weights = spec.stack([spec.read(state, None, "a", ReadOptions())])[1]
    described = check(spec, weights, probes, [(logits, found)], widest=512, moved=1)
    np.testing.assert_array_equal(described[:, 6], [7, *[3] * 8])
    np.testing.assert_array_equal(described[:, 8], [2, 1, 1, 2, 1, 2, 1, 2, 1])


@SLOW
@pytest.mark.optimized
@pytest.mark.parametrize("library", ["transformers", "torchvision", "timm"])
def test_so_are_those_of_the_libraries_transformers(library):
    pytest.importorskip(library)
    import test_vit

    size = test_vit.SIZES["small"]
    module, config, logits = getattr(test_vit, f"of_{library}")(*size)
    module.eval()
    shapes = {key: tuple(x.shape) for key, x in module.state_dict().items()}
    state = random_state(shapes, seed=5)
    module.load_state_dict({key: torch.tensor(x) for key, x in state.items()})
    spec = VitSpec.from_files(config, state, "a", {} if config else {"heads": size[4]})
    lists = {"timm": "blocks", "torchvision": "encoder.layers"}
    if library == "transformers":
        name = next(n for n, m in module.named_modules() if isinstance(m, nn.ModuleList))
    else:
        name = lists[library]
    found = []

    def see(block, given, out):
        out = out[0] if isinstance(out, tuple) else out
        found.append((as_map(out, spec),) * 2)

    for block in module.get_submodule(name):
        block.register_forward_hook(see)
    probes = np.random.default_rng(1).standard_normal((2, *spec.probe_shape), np.float32)
    theirs = logits(module(to_torch(probes))).detach().numpy()
    weights = spec.stack([spec.read(state, None, "a", ReadOptions())])[1]
    check(spec, weights, probes, [(theirs, found)], widest=36)
