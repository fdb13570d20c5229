"""Image probe generators: equal to PyTorch's, and sized right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from probegen_jax.errors import UserError
from probegen_jax.method.generators.coordinates import DeepLinear, Uniform
from probegen_jax.method.generators.images import DeadLeaves, DeepLinearImage, VanillaImage
from probegen_jax.method.layers import ConvTranspose
from probegen_jax.method.model import make_generator
from probegen_jax.official import parameters

SETTINGS = {"num_probes": 5, "latent_dim": 4, "generator_depth": 3, "generator_width": 2}
LAYERS = [
    # in, out, k, stride, padding, size: one pixel, gathered, scattered, and both strides
    (32, 12, 4, 1, 0, 1),
    (12, 6, 4, 2, 1, 4),
    (6, 6, 3, 1, 1, 8),
    (16, 1, 3, 1, 1, 8),
    (16, 2, 4, 2, 1, 5),
    (5, 3, 6, 3, 2, 4),
    (5, 3, 3, 3, 0, 1),
]
GOLDEN = {
    "cifar10_gs_deep_linear_6": 6,
    "cifar10_wild_park_deep_linear_5": 5,
    "cifar10_gs_vanilla": None,
    "cifar10_wild_park_vanilla": None,
}


def relative_error(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def generator_params(generator: nnx.Module):
    graphdef, params = nnx.split(generator, nnx.Param)
    return graphdef, nnx.to_pure_dict(params)


@pytest.mark.parametrize(("m", "n", "k", "stride", "padding", "size"), LAYERS)
def test_conv_transpose_equals_torch(m, n, k, stride, padding, size):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.ConvTranspose2d(m, n, k, stride, padding)
    layer = ConvTranspose(m, n, k, stride, padding, rngs=nnx.Rngs(params=0))
    kernel = theirs.weight.detach().numpy().transpose(2, 3, 0, 1)
    x = np.random.default_rng(0).normal(size=(3, m, size, size)).astype(np.float32)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = theirs(x_torch)
    weight = np.random.default_rng(1).normal(size=y_torch.shape).astype(np.float32)
    (y_torch * torch.tensor(weight)).sum().backward()

    graphdef, params = generator_params(layer)
    params = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(theirs.bias.detach().numpy())}

    def total(params, x):
        y = nnx.merge(graphdef, params)(x)
        return jnp.sum(y * weight.transpose(0, 2, 3, 1)), y

    x_ours = jnp.asarray(x.transpose(0, 2, 3, 1))
    (grads, dx), y = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(params, x_ours)
    assert relative_error(y.transpose(0, 3, 1, 2), y_torch.detach()) < 1e-5
    assert relative_error(dx.transpose(0, 3, 1, 2), x_torch.grad) < 1e-5
    assert relative_error(grads["kernel"], theirs.weight.grad.permute(2, 3, 0, 1)) < 1e-5
    assert relative_error(grads["bias"], theirs.bias.grad) < 1e-5


@pytest.mark.parametrize("shape", [(4, 3), (32, 2)])  # gathers, scatters
def test_conv_transpose_is_the_same_on_every_platform(shape):
    layer = ConvTranspose(*shape, 4, 2, 1, rngs=nnx.Rngs(params=0))
    x = jax.random.normal(jax.random.key(0), (3, 5, 5, shape[0]))
    graphdef, params = generator_params(layer)

    def total(params, x, platform):
        return jnp.sum(jnp.square(nnx.merge(graphdef, params)(x, platform=platform)))

    found = [jax.grad(total, argnums=(0, 1))(params, x, platform) for platform in ("cpu", "gpu")]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *found)


def test_conv_transpose_starts_as_torch_does():
    """U(±1/√(out·k²)): PyTorch counts axis 1 of (in, out, k, k)."""
    layer = ConvTranspose(64, 7, 4, 2, 1, rngs=nnx.Rngs(params=0))
    bound = 1 / np.sqrt(7 * 16)
    for values in (layer.kernel[...], layer.bias[...]):
        assert 0.7 * bound < np.abs(values).max() <= bound
    assert abs(float(jnp.std(layer.kernel[...])) - bound / np.sqrt(3)) < 0.02 * bound


def test_conv_transpose_refuses_a_kernel_that_is_no_multiple_of_its_stride():
    with pytest.raises(ValueError, match="not a multiple"):
        ConvTranspose(2, 2, 3, 2, 1, rngs=nnx.Rngs(params=0))


def official_generator(case: str, channels: int, rngs: nnx.Rngs) -> nnx.Module:
    if GOLDEN[case] is None:
        return VanillaImage(8, (32, 32, channels), rngs=rngs)
    return DeepLinearImage(8, (32, 32, channels), depth=GOLDEN[case], rngs=rngs)


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_probes(case, shared):
    """The official code's parameters make the official code's probes, before and after training."""
    torch = pytest.importorskip("torch")
    folder = shared / "golden" / case
    expected = np.load(folder / "expected.npz")
    channels = expected["probes"].shape[1]
    generator = official_generator(case, channels, nnx.Rngs(params=0))
    graphdef, ours = generator_params(generator)
    for file, name in (("initial.pth", "probes"), ("final.pth", "final_probes")):
        state = torch.load(folder / file, weights_only=True)
        official = {key: tensor.numpy() for key, tensor in state.items()}
        params = parameters.from_official(official)["generator"]
        assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, ours)
        probes = jax.jit(lambda params: nnx.merge(graphdef, params)())(params)
        assert relative_error(probes.transpose(0, 3, 1, 2), expected[name]) < 1e-5
        back = parameters.to_official(parameters.from_official(official))
        assert set(back) == set(official)
        for key, tensor in official.items():
            np.testing.assert_array_equal(back[key], tensor)


@pytest.mark.parametrize("case", [case for case, depth in GOLDEN.items() if depth])
def test_golden_generator_gradients(case, shared):
    """Gradients through the generator equal PyTorch's through the same layers in float64."""
    torch = pytest.importorskip("torch")
    state = torch.load(shared / "golden" / case / "initial.pth", weights_only=True)
    names = [key for key in state if key.startswith(("input", "tokens_generator"))]
    leaves = {name: state[name].double().requires_grad_() for name in names}
    x = leaves["input"]
    for index in range(GOLDEN[case]):
        weight, bias = (
            leaves[f"tokens_generator.main.{index}.{kind}"] for kind in ("weight", "bias")
        )
        stride = 2 if weight.shape[-1] == 4 and index else 1
        x = torch.nn.functional.conv_transpose2d(x, weight, bias, stride, padding=int(index > 0))
    scale = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    (torch.tanh(x) * torch.tensor(scale).double()).sum().backward()

    graphdef, _ = generator_params(official_generator(case, x.shape[1], nnx.Rngs(params=0)))
    official = {key: tensor.detach().numpy() for key, tensor in state.items()}
    model_params = jax.tree.map(jnp.asarray, parameters.from_official(official))

    def total(params):
        return jnp.sum(nnx.merge(graphdef, params)() * scale.transpose(0, 2, 3, 1))

    grads = jax.jit(jax.grad(total))(model_params["generator"])
    for name, grad in parameters.to_official({**model_params, "generator": grads}).items():
        if name in leaves:
            assert relative_error(grad, leaves[name].grad) < 1e-5, name


@pytest.mark.parametrize(
    ("shape", "depth", "channels"),
    [
        ((32, 32, 3), None, [128, 64, 32, 16, 3]),
        ((32, 32, 1), 6, [128, 64, 32, 32, 16, 1]),
        ((8, 8, 1), None, [128, 64, 1]),
        ((28, 28, 1), None, [128, 64, 32, 1]),
        ((64, 64, 3), None, [128, 64, 32, 16, 16, 3]),
        ((4, 4, 1), None, [128, 1]),
    ],
)
def test_deep_linear_sizes(shape, depth, channels):
    generator = DeepLinearImage(3, shape, depth=depth, rngs=nnx.Rngs(params=0))
    assert [layer.bias.shape[0] for layer in generator.layers] == channels
    graphdef, params = generator_params(generator)
    probes = jax.jit(lambda params: nnx.merge(graphdef, params)())(params)
    assert probes.shape == (3, *shape)
    assert float(jnp.abs(probes).max()) < 1


@pytest.mark.parametrize(
    ("size", "layers"),
    [(32, 5), (56, 5), (64, 6), (96, 6), (112, 6), (128, 7), (192, 7), (224, 7)],
)
def test_a_depth_left_open_grows_with_the_images(size, layers):
    def made():
        settings = SETTINGS | {"method": "probegen", "generator_depth": None}
        return make_generator(settings, (size, size, 3), rngs=nnx.Rngs(0))

    assert len(nnx.eval_shape(made).layers) == layers
    assert nnx.eval_shape(lambda: made()()).shape == (5, size, size, 3)


@pytest.mark.parametrize(
    ("shape", "depth", "message"),
    [
        ((32, 28, 1), None, "square"),
        ((30, 30, 1), None, "cannot make 30×30"),
        ((32, 32, 1), 4, "at least 5 layers, got 4"),
        ((4, 4, 1), 3, "exactly 2 layers"),
    ],
)
def test_impossible_generators_say_why(shape, depth, message):
    with pytest.raises(UserError, match=message):
        DeepLinearImage(3, shape, depth=depth, rngs=nnx.Rngs(params=0))


@pytest.mark.parametrize(
    ("method", "shape", "kind"),
    [
        ("probegen", (8, 8, 1), DeepLinearImage),
        ("vanilla", (8, 8, 1), VanillaImage),
        ("dead_leaves", (8, 8, 1), DeadLeaves),
        ("probegen", (2,), DeepLinear),
        ("uniform", (2,), Uniform),
    ],
)
def test_the_method_and_the_probes_shape_choose_the_generator(method, shape, kind):
    images = np.zeros((5, 8, 8, 1), np.float32) if method == "dead_leaves" else None
    settings = SETTINGS | {"method": method}
    generator = make_generator(settings, shape, images=images, rngs=nnx.Rngs(params=0))
    assert type(generator) is kind
    assert generator().shape == (5, *shape)


@pytest.mark.parametrize(
    ("method", "shape", "message"),
    [
        ("dead_leaves", (2,), "read coordinates; choose from probegen, vanilla, uniform"),
        ("uniform", (8, 8, 1), "read images; choose from probegen, vanilla, dead_leaves"),
    ],
)
def test_a_method_for_other_probes_is_named(method, shape, message):
    with pytest.raises(UserError, match=message):
        make_generator(SETTINGS | {"method": method}, shape, rngs=nnx.Rngs(params=0))


@pytest.mark.parametrize("layers", ["convolutional", "dense"])
def test_an_activation_stands_between_the_layers_of_images(layers):
    """Of more probes than a linear generator would run; with none in between, it is that one."""
    more = {"num_probes": 9, "generator": layers, "method": "probegen"}

    def made(activation):
        settings = SETTINGS | more | {"generator_activation": activation}
        return make_generator(settings, (8, 8, 1), rngs=nnx.Rngs(params=0))

    model, linear = made("relu"), made("none")
    latents_PxD = linear.latents[...].reshape(9, 4)
    for generator, activation in ((model, jax.nn.relu), (linear, lambda x: x)):
        x = latents_PxD if layers == "dense" else latents_PxD[:, None, None]
        for n, layer in enumerate(linear.layers):
            x = layer(x) if layers == "dense" else layer(x, jnp.ones(9))
            x = activation(x) if n < 2 else x
        expected = jnp.tanh(x).reshape(9, 8, 8, 1)
        np.testing.assert_allclose(generator(), expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(model(), linear(), atol=1e-3)


def test_dense_generators_make_images_of_any_size():
    settings = SETTINGS | {"generator": "dense", "generator_depth": 1, "method": "probegen"}
    made = make_generator(settings, (9, 5, 3), rngs=nnx.Rngs(params=0))
    assert made().shape == (5, 9, 5, 3) and len(made.layers) == 1
    with pytest.raises(UserError, match="cannot make 9×5 images"):
        make_generator(settings | {"generator": "convolutional"}, (9, 5, 3), rngs=nnx.Rngs(0))


def test_fixed_images_are_different_images_of_the_bank():
    bank = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1) * np.ones((1, 4, 4, 2), np.float32)
    generator = DeadLeaves(6, (4, 4, 2), images=bank, rngs=nnx.Rngs(params=3))
    assert not jax.tree.leaves(nnx.split(generator, nnx.Param, ...)[1])
    chosen = np.asarray(generator())[:, 0, 0, 0]
    assert len(set(chosen.tolist())) == 6
    again = DeadLeaves(6, (4, 4, 2), images=bank, rngs=nnx.Rngs(params=3))
    np.testing.assert_array_equal(generator(), again())
    other = DeadLeaves(6, (4, 4, 2), images=bank, rngs=nnx.Rngs(params=4))
    assert not np.array_equal(generator(), other())
    with pytest.raises(UserError, match="only 10 images"):
        DeadLeaves(11, (4, 4, 2), images=bank, rngs=nnx.Rngs(params=0))
