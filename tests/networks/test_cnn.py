import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probegen_jax.errors import UserError
from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.cnn import forward
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer import ConvLayer
from probegen_jax.networks.cnn.published import small_cnn_zoo, wild_park
from probegen_jax.networks.cnn.state_dict import from_torch
from probegen_jax.networks.contract import NetworkSpec

SPEC = CnnSpec(
    (
        ConvLayer(2, 4, 3, 1, 1, "relu"),
        ConvLayer(4, 6, 3, 1, 1, "tanh", residual=0),
        ConvLayer(6, 4, 5, 2, 2, "gelu"),
    ),
    num_classes=3,
    image_shape=(8, 8, 2),
)


def changed(index, **values):
    layers = list(SPEC.layers)
    layers[index] = dataclasses.replace(layers[index], **values)
    return dataclasses.replace(SPEC, layers=tuple(layers))


def batch(spec, number):
    return jax.vmap(spec.init)(jax.random.split(jax.random.key(0), number))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_apply_equals_a_plain_torch_module(activation):
    torch = pytest.importorskip("torch")
    from plain_torch import PlainCnn

    spec = changed(0, activation=activation)
    torch.manual_seed(0)
    module = PlainCnn(spec.layers, spec.num_classes)
    weights = from_torch({name: t.detach().numpy() for name, t in module.state_dict().items()})
    spec.check(weights, "plain")
    images = np.random.default_rng(0).standard_normal((5, 8, 8, 2), np.float32)
    expected = module(torch.tensor(images.transpose(0, 3, 1, 2))).detach().numpy()
    np.testing.assert_allclose(spec.apply(weights, jnp.asarray(images)), expected, atol=1e-5)


# Without residual links: strides 1 to 3, odd sizes, kernels smaller than the stride, one layer.
STRIDES = CnnSpec(
    (
        ConvLayer(3, 5, 3, 2, 0, "per_network"),
        ConvLayer(5, 4, 5, 3, 2, "sigmoid"),
        ConvLayer(4, 6, 3, 1, 1, "none"),
        ConvLayer(6, 4, 2, 3, 0, "leaky_relu"),
    ),
    image_shape=(31, 27, 3),
    activations=("relu", "tanh", "leaky_relu"),
)
SELUS = CnnSpec(
    (ConvLayer(1, 5, 3, 1, 1, "selu"), ConvLayer(5, 4, 3, 2, 0, "per_network")),
    image_shape=(7, 7, 1),
    activations=("sigmoid", "selu"),
)
ONE_LAYER = CnnSpec((ConvLayer(4, 8, 3, 1, 1, "tanh"),), image_shape=(6, 6, 4))


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize(
    "spec", [SPEC, small_cnn_zoo(), small_cnn_zoo("tanh", "official"), STRIDES, ONE_LAYER, SELUS]
)
def test_respond_and_its_gradient_equal_a_loop_over_networks(spec, platform):
    assert isinstance(spec, NetworkSpec)
    spec = spec.on_platform(platform)
    weights = batch(spec, 4)
    probes = jax.random.normal(jax.random.key(1), (3, *spec.probe_shape))

    def loop(probes):
        return jnp.stack([spec.apply(spec.take(weights, jnp.asarray(n)), probes) for n in range(4)])

    def both(responses_of):
        def total(probes):
            responses = responses_of(probes)
            return jnp.sum(jnp.square(responses)), responses

        return jax.jit(jax.grad(total, has_aux=True))(probes)

    ours, plain = both(lambda probes: spec.respond(weights, probes)), both(loop)
    assert ours[1].shape == (4, 3, spec.response_dim)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_on_a_gpu_layers_whose_patches_are_too_large_are_convolved(monkeypatch):
    spec = small_cnn_zoo().on_platform("gpu")
    weights = batch(spec, 4)
    probes = jax.random.normal(jax.random.key(1), (3, *spec.probe_shape))

    def convolutions():
        return str(jax.make_jaxpr(spec.respond)(weights, probes)).count("conv_general_dilated[")

    assert convolutions() == 0
    expected = spec.respond(weights, probes)
    monkeypatch.setattr(forward, "MOST_PATCH_VALUES", 50_000)  # the second layer's are more
    assert convolutions() == 1
    np.testing.assert_allclose(spec.respond(weights, probes), expected, rtol=1e-4, atol=1e-5)


def test_the_genuine_cifar10_gs_network_scores_as_published(shared):
    """Trained with valid convolutions; with padding 1 it is another function."""
    with np.load(shared / "data" / "cifar10" / "gray_test10000.npz") as file:
        images, labels = file["images"], file["labels"]
    images = jnp.asarray(images[..., None] / 127.5 - 1, jnp.float32)
    flat = np.load(shared / "data" / "small_cnn_zoo_real" / "optimal_weights.npy")
    layers, start = [], 0
    for channels in (1, 16, 16):
        bias, kernel = np.split(flat[start : start + 16 + 144 * channels], [16])
        layers.append({"kernel": kernel.reshape(3, 3, channels, 16), "bias": bias})
        start += 16 + 144 * channels
    head = {"kernel": flat[start + 10 :].reshape(16, 10), "bias": flat[start : start + 10]}
    weights = {"layers": tuple(layers), "head": head}
    for fidelity, expected in (("faithful", 0.5354), ("official", 0.3924)):
        spec = small_cnn_zoo("relu", fidelity)
        logits = jax.jit(spec.apply)(weights, images)
        assert np.mean(np.asarray(logits).argmax(axis=-1) == labels) == pytest.approx(
            expected, abs=5e-4
        )


def test_weight_count_and_abstract_shapes():
    assert small_cnn_zoo("relu").num_weights == 4970
    for spec in (SPEC, small_cnn_zoo()):
        network = spec.init(jax.random.key(0))
        assert jax.tree.map(np.shape, network) == jax.tree.map(lambda s: s.shape, spec.abstract())


@pytest.mark.parametrize(
    ("index", "values", "message"),
    [
        (1, {"activation": "swish"}, r"layer 1: .*'swish'"),
        (1, {"residual": 1}, r"layer 1: .*residual"),
        (0, {"residual": 2}, r"layer 0: .*residual"),
        (2, {"residual": 1}, r"layer 2: adds layer 1, which is 8×8 pixels, to 4×4"),
        (1, {"kernel": 4, "padding": 2}, r"layer 1: .*even"),
        (1, {"in_channels": 5}, r"layer 1: .*5"),
        (1, {"kernel": 11, "padding": 0}, r"layer 1: a 11×11 kernel with padding 0 does not fit"),
    ],
)
def test_impossible_architectures_are_named(index, values, message):
    with pytest.raises(UserError, match=message):
        changed(index, **values)


def test_weights_that_disagree_with_their_spec_are_named():
    weights = SPEC.init(jax.random.key(0))
    weights["layers"][1]["kernel"] = np.zeros((3, 3, 4, 5), np.float32)
    message = r"network model_7.pth: layer 1: kernel has shape \(3, 3, 4, 5\), its spec says"
    with pytest.raises(UserError, match=message):
        SPEC.check(weights, "model_7.pth")
    with pytest.raises(UserError, match="network a: has 2 convolutions, its spec 3"):
        SPEC.check({**weights, "layers": weights["layers"][:2]}, "a")


def test_probes_of_the_wrong_size_are_named():
    with pytest.raises(UserError, match=r"probes have shape \(3, 9, 8, 2\), but these networks"):
        SPEC.respond(batch(SPEC, 2), jnp.zeros((3, 9, 8, 2)))


def test_wild_park_configs_are_read_and_faults_named():
    config = {
        "channels": [3, 4, 8],
        "kernel_size": [3, 5],
        "stride": [1, 1],
        "padding": [1, 2],
        "activation": ["relu", "gelu"],
        "residual": [-1, 0],
        "n_classes": 10,
    }
    faithful, official = wild_park(config), wild_park(config, "official")
    assert [layer.residual for layer in faithful.layers] == [-1, 0]
    assert [layer.residual for layer in official.layers] == [-1, -1]
    with pytest.raises(UserError, match=r"network a.pt: kernel_size has 1 entries for 2 layers"):
        wild_park({**config, "kernel_size": [3]}, network="a.pt")
    with pytest.raises(UserError, match=r"network a.pt: layer 1: .*'swish'"):
        wild_park({**config, "activation": ["relu", "swish"]}, network="a.pt")
