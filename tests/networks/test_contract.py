"""What every family of networks does, and what a family of a few lines gets for nothing."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPO

from probegen_jax.errors import UserError
from probegen_jax.method.readouts.base import Sizes
from probegen_jax.method.tasks import TASKS
from probegen_jax.networks import registry
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer import ConvLayer
from probegen_jax.networks.cnn.published import small_cnn_zoo
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.field import FieldSpec
from probegen_jax.networks.layered_cnn.layer import Layer
from probegen_jax.networks.layered_cnn.layered import LayeredCnnSpec
from probegen_jax.networks.mixed_cnn import mixed
from probegen_jax.networks.mixed_cnn.mixed import MixedCnnSpec
from probegen_jax.networks.options import Options, ReadOptions
from probegen_jax.networks.resnet.resnet import ResNetSpec
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.networks.vit import VitSpec
from probegen_jax.runs.predictor import Predictor
from probegen_jax.training import tuning
from probegen_jax.zoo.own import files_and_targets
from probegen_jax.zoo.zoo import Stored, Zoo


@dataclasses.dataclass(frozen=True)
class Line(NetworkSpec):
    """A family as a reader of the contract would write it."""

    probe_shape: tuple[int, ...]
    response_dim: int = 1

    def apply(self, weights, probes):
        return probes @ weights["slope"] + weights["offset"][None]


LINE = Line((3,))
WEIGHTS = {
    "slope": np.random.default_rng(0).standard_normal((9, 3, 1), np.float32),
    "offset": np.arange(9, dtype=np.float32)[:, None],
}


def zoo_of(spec, weights, number=9):
    splits = {"train": np.arange(number - 2), "val": [number - 2], "test": [number - 1]}
    splits = {name: np.asarray(rows, np.int32) for name, rows in splits.items()}
    targets = np.arange(number, dtype=np.float32)
    return Zoo("lines", spec, weights, targets, splits, "regression", 1)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_family_of_a_few_lines_has_all_the_rest():
    assert hash(LINE) == hash(Line((3,)))
    probes = jnp.asarray(np.random.default_rng(1).standard_normal((4, 3), np.float32))
    expected = np.asarray(probes) @ WEIGHTS["slope"] + WEIGHTS["offset"][:, None]
    np.testing.assert_allclose(LINE.respond(WEIGHTS, probes), expected, rtol=1e-5, atol=1e-6)
    assert LINE.count(WEIGHTS) == 9 and LINE.costs(WEIGHTS) is None
    assert LINE.num_weights is LINE.plane is LINE.abstract() is None
    assert LINE.render(WEIGHTS, 8, 8) is None
    assert LINE.vmap_seeds and not LINE.needs_config
    assert LINE.shared_rows(WEIGHTS) is None
    one = LINE.take(WEIGHTS, 4)
    assert one["slope"].shape == (3, 1) and one["offset"] == 4
    first, second = LINE.shard(WEIGHTS, [np.array([3, 1]), np.array([0, 8])])
    equal(first, LINE.take(WEIGHTS, np.array([3, 1])))
    np.testing.assert_array_equal(second["offset"], [[0], [8]])
    spec, stacked = LINE.stack([LINE.take(WEIGHTS, n) for n in range(9)])
    assert spec == LINE
    equal(stacked, WEIGHTS)


def test_a_family_without_what_it_needs_cannot_be_made():
    class Nothing(NetworkSpec):
        pass

    with pytest.raises(TypeError, match="apply"):
        Nothing()


def test_options_that_a_family_does_not_have_are_refused_unless_they_are_left_alone():
    assert LINE.with_options(Options(), WEIGHTS) == LINE
    assert LINE.with_options(Options(sine="exact")) == LINE  # it has no sines
    assert LINE.with_block_size(None) == LINE
    for options, message in (
        (Options(block_size=4), "block_size is 4, but networks like Line always run all at once"),
        (Options(compute_dtype="bfloat16"), "compute_dtype is 'bfloat16', which is for zoos of"),
    ):
        with pytest.raises(UserError, match=message):
            LINE.with_options(options, WEIGHTS)
    with pytest.raises(UserError, match="compute_dtype is 'bfloat16'"):
        SirenSpec().with_options(Options(compute_dtype="bfloat16"))
    with pytest.raises(
        UserError, match=r"Line read probes of shape \(3,\), and none of shape \(4,\)"
    ):
        LINE.with_probe_shape((4,))


def test_families_take_the_options_that_they_have():
    siren = SirenSpec(hidden=(4,))
    weights = jax.device_get(jax.vmap(siren.init)(jax.random.split(jax.random.key(0), 3)))
    assert siren.with_options(Options(), weights) == siren
    far = jax.tree.map(lambda leaf: leaf * 1e4, weights)
    assert siren.with_options(Options(), far).sine == "exact"
    assert siren.with_options(Options(sine="fast"), far) == siren
    assert siren.with_options(Options(2), None) == dataclasses.replace(siren, block_size=2)
    cnn = small_cnn_zoo()
    assert cnn.with_options(Options(2, "exact")) == dataclasses.replace(cnn, block_size=2)
    assert cnn.with_probe_shape((40, 40, 1)).image_shape == (40, 40, 1)
    park = MixedCnnSpec((), 0, (8, 8, 3), 10, 0)
    expected = dataclasses.replace(park, block_size=2, dtype="bfloat16")
    assert park.with_options(Options(2, compute_dtype="bfloat16")) == expected
    assert not park.block_sizes(32) and cnn.block_sizes(5) == siren.block_sizes(5) == (None, 1, 4)


def test_the_platform_is_an_option_that_no_export_knows():
    probes = jnp.ones((3, 5, 6, 2))
    spec, weights = families()["cnn"]
    for family, _ in families().values():
        chosen = family.with_options(Options(platform="gpu"))
        assert chosen == family.on_platform("gpu")
        assert (chosen == family) != hasattr(family, "platform")
        assert repr(chosen) == repr(family)  # which the caches of zoos go by
        assert registry.to_json(chosen) == registry.to_json(family)
        assert chosen.on_platform("cpu") == family
    assert LINE.with_options(Options(platform="gpu")) == LINE

    def lowered(platform, target):
        respond = jax.jit(spec.on_platform(platform).respond)
        return respond.trace(weights, probes).lower(lowering_platforms=(target,)).as_text()

    # This process has but a CPU, and writes programs for others.
    assert "stablehlo.while" in lowered("cpu", "cpu")
    assert "stablehlo.while" not in lowered("gpu", "cuda") + lowered("tpu", "tpu")


def test_tuning_is_passed_over_where_there_is_nothing_to_choose(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "_fastest", lambda *args: pytest.fail("measured"))
    assert (
        tuning.block_size_of_run(tmp_path, zoo_of(LINE, WEIGHTS), 4, 2, total_steps=10**9) is None
    )
    assert not list(tmp_path.iterdir())


def test_zoos_of_any_family_are_read_in_memory_or_stored():
    rows = np.array([5, 2])
    expected = jax.tree.map(lambda leaf: leaf[rows], WEIGHTS)
    stored = Stored(lambda rows: jax.tree.map(lambda leaf: leaf[rows], WEIGHTS))
    for weights in (WEIGHTS, jax.tree.map(jnp.asarray, WEIGHTS), stored):
        zoo = zoo_of(LINE, weights)
        for found in (zoo.read(rows), *zoo.shard([rows], lambda counts: counts)):
            equal(found, expected)
            assert {type(leaf) for leaf in jax.tree.leaves(found)} == {np.ndarray}
        assert zoo.costs() is None


def test_a_mixed_zoo_is_read_by_its_programs():
    spec, weights, networks = mixture()
    zoo = zoo_of(spec, weights, 3)
    part = zoo.read(np.array([2, 0]))
    assert spec.count(weights) == 3 and spec.count(part) == 2
    probes = jnp.ones((2, *spec.probe_shape))
    found = spec.respond(jax.tree.map(jnp.asarray, part), probes)
    for responses, n in zip(found, (2, 0), strict=True):
        member, network = networks[n]
        expected = member.apply(network, probes)
        np.testing.assert_allclose(responses, expected, rtol=1e-4, atol=1e-5)


def test_arrays_of_a_family_without_shapes_make_a_zoo():
    targets = np.arange(9) % 2
    zoo = files_and_targets.from_arrays("lines", LINE, WEIGHTS, targets, task="classification")
    assert len(zoo) == 9 and zoo.spec == LINE
    with pytest.raises(UserError, match="weights are of 9 networks, targets of 8"):
        files_and_targets.from_arrays("lines", LINE, WEIGHTS, targets[:8], task="classification")


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        ({"slope": np.zeros((9, 3, 1)), "offset": np.zeros((8, 1))}, r"\[\(8,\), \(9,\)\]"),
        ({"slope": np.zeros(3), "offset": np.float32(1)}, r"\[\(\), \(3,\)\]"),
        ({}, r"\[\]"),
    ],
)
def test_weights_that_are_not_stacked_are_not_counted(weights, found):
    with pytest.raises(UserError, match=f"the same number of networks .* found {found}$"):
        LINE.count(weights)


def test_a_family_that_reads_no_files_says_so(tmp_path):
    sizes = Sizes(2, 4, 1, 1)
    probes = np.zeros((1, 2, 3))
    task = TASKS["regression"]
    predictor = Predictor(LINE, ReadOptions(), task, [0], probes, {}, "outputs", sizes, 4)
    with pytest.raises(UserError, match=r"^cannot read files of networks like Line; give their"):
        predictor.predict(tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"^cannot read files of networks like CnnSpec"):
        small_cnn_zoo("relu").read({}, {}, "a", ReadOptions())


def mixture():
    members = [
        CnnSpec(layers, num_classes=3, image_shape=(4, 4, 1))
        for layers in (
            (ConvLayer(1, 4, 3, 1, 1, "relu"),),
            (ConvLayer(1, 4, 3, 1, 1, "selu"), ConvLayer(4, 4, 3, 1, 1, "tanh", 0)),
            (ConvLayer(1, 4, 3, 1, 1, "gelu"),),
        )
    ]
    weights = [jax.device_get(member.init(jax.random.key(n))) for n, member in enumerate(members)]
    return *mixed.build(members, weights), list(zip(members, weights, strict=True))


@functools.cache
def families():
    """A spec of each registered family, and stacked weights of a few networks."""
    siren = SirenSpec(hidden=(4, 5), in_dim=3, out_dim=2, grid="ij", w0=20.0, block_size=2)
    cnn = CnnSpec(
        (ConvLayer(2, 3, 3, 2, 1, "per_network"), ConvLayer(3, 2, 1, 1, 0, "gelu", 0)),
        num_classes=4,
        image_shape=(5, 6, 2),
        activations=("relu", "sine"),
    )
    keys = jax.random.split(jax.random.key(0), 3)
    field = FieldSpec(hidden=(4,), encoding="fourier", frequencies=3, activation="gabor")
    vit = VitSpec((4, 4, 1), 2, 4, 1, 2, 6, 3)
    resnet = ResNetSpec((4, 8), (1, 2), image_shape=(6, 5, 1), stem_width=4)
    layers = (
        Layer("conv", "a", inputs=2, outputs=4, kernel=(3, 2), groups=2),
        Layer("max_pool", kernel=(2, 2), stride=(1, 2)),
        Layer("norm", "b", inputs=4, outputs=4),
        Layer("flatten"),
        Layer("linear", "c", inputs=16, outputs=3),
    )
    layered = LayeredCnnSpec((5, 5, 2), 3, (layers,))
    specs = {"siren": siren, "field": field, "cnn": cnn, "vit": vit, "resnet": resnet}
    specs["layered_cnn"] = layered
    found = {kind: (spec, jax.jit(jax.vmap(spec.init))(keys)) for kind, spec in specs.items()}
    return found | {"mixed_cnn": mixture()[:2]}


def test_every_registered_family_is_looked_at():
    assert families().keys() == registry.FAMILIES.keys()


@pytest.mark.parametrize("kind", registry.FAMILIES)
def test_responses_are_those_of_one_network_after_the_other(kind):
    spec, weights = families()[kind]
    probes = jax.random.normal(jax.random.key(1), (3, *spec.probe_shape))
    weights = jax.tree.map(jnp.asarray, weights)
    assert spec.count(weights) == 3
    apply = jax.jit(spec.apply)
    loop = [apply(spec.take(weights, n), probes) for n in range(3)]
    found = jax.jit(spec.respond)(weights, probes)
    assert found.shape == (3, 3, spec.response_dim)
    np.testing.assert_allclose(found, np.stack(loop), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", registry.FAMILIES)
def test_specs_go_through_json_and_back(kind):
    spec, _ = families()[kind]
    content = json.loads(json.dumps(registry.to_json(spec)))
    again = registry.from_json(content)
    assert content["kind"] == kind and type(again) is type(spec)
    assert (again.probe_shape, again.response_dim) == (spec.probe_shape, spec.response_dim)
    assert again == (spec if kind != "mixed_cnn" else MixedCnnSpec((), 0, (4, 4, 1), 3, 0))
    assert json.loads(json.dumps(registry.to_json(again))) == content


def test_a_family_without_a_name_is_not_exported():
    with pytest.raises(UserError, match=r"networks like Line; add the family to networks/registry"):
        registry.to_json(LINE)
    assert Line.from_json(LINE.to_json()) == LINE


SIREN = {"kind": "siren", "hidden": [4]}
CNN = {"kind": "cnn", "image_shape": [4, 4, 1]}
LAYER = dataclasses.asdict(ConvLayer(1, 2, 3, 1, 1, "relu"))
HOSTILE = [
    (None, "networks of kind None are unknown; known are siren, cnn, mixed_cnn"),
    ([], "networks of kind None"),
    ({"kind": ["siren"]}, "networks of kind \\['siren'\\] are unknown"),
    ({"kind": "transformer"}, "networks of kind 'transformer' are unknown"),
    (SIREN | {"hidden": []}, "the networks' widths are .*; each must be at least 1"),
    (SIREN | {"hidden": [4, -1]}, "the networks' widths are"),
    (SIREN | {"hidden": 4}, "network: hidden is 4"),
    (SIREN | {"hidden": [4.5]}, "network: hidden is 4.5"),
    (SIREN | {"hidden": [10**400]}, "network: hidden is 1000"),
    (SIREN | {"in_dim": True}, "network: in_dim is True"),
    (SIREN | {"w0": float("nan")}, "network: w0 is nan"),
    (SIREN | {"w0": "30"}, "network: w0 is '30'"),
    (SIREN | {"w0_first": []}, "network: w0_first is \\[\\]"),
    (SIREN | {"grid": "yx"}, "network: grid is 'yx'"),
    (SIREN | {"sine": ["fast"]}, "network: sine is \\['fast'\\]"),
    (SIREN | {"block_size": 0}, "block_size is 0; it must be at least 1"),
    (SIREN | {"depth": 3}, "network has an unknown 'depth'"),
    (CNN, "network has no 'layers'"),
    (CNN | {"layers": []}, "a CNN needs at least one convolution"),
    (CNN | {"layers": {}}, "network: layers is {}"),
    (CNN | {"layers": [LAYER | {"stride": 0}]}, "layer 0: stride is 0"),
    (CNN | {"layers": [LAYER | {"activation": []}]}, "network: layers: activation is \\[\\]"),
    (CNN | {"layers": [LAYER | {"activation": "swish"}]}, "unknown activation 'swish'"),
    (CNN | {"layers": [LAYER], "image_shape": [4, 1]}, "network: image_shape is \\[4, 1\\]"),
    (CNN | {"layers": [LAYER], "image_shape": [-4, 4, 1]}, "layer 0: a 3×3 kernel"),
    (CNN | {"layers": [LAYER], "num_classes": 0}, "num_classes is 0"),
    ({"kind": "mixed_cnn", "image_shape": [8, 8, 0], "num_classes": 10}, "image_shape"),
    ({"kind": "mixed_cnn", "image_shape": None, "num_classes": 10}, "network: image_shape is None"),
    ({"kind": "mixed_cnn", "image_shape": [8, 8, 1]}, "network has no 'num_classes'"),
]


@pytest.mark.parametrize(("content", "message"), HOSTILE)
def test_values_that_make_no_spec_are_told_in_a_line(content, message):
    with pytest.raises(UserError, match=message) as error:
        registry.from_json(content)
    assert "\n" not in str(error.value)


def test_nothing_outside_networks_asks_which_family_a_spec_is_of():
    asks = re.compile(
        r"isinstance\([^()]*(\([^()]*\))?[^()]*Spec\b|(hasattr|getattr)\(\s*[\w.]*spec\b"
    )
    for path in sorted((REPO / "probegen_jax").rglob("*.py")):
        if "networks" not in path.relative_to(REPO / "probegen_jax").parts[:1]:
            found = asks.search(path.read_text(encoding="utf-8"))
            assert found is None, f"{path}: {found[0]}"
