"""ProbeGen (Kahana et al., ICLR 2025) in one file: tell what a network does by asking it questions.

    python examples/probegen_one_file.py [SEED EPOCHS]    # less than a minute on two cores

The zoo: 1,797 SIRENs, each fitted to one of scikit-learn's digits. The task: name the digit, given
only the network. The method: a deep linear generator makes probes, here points of the image plane;
every network answers every probe; an MLP, the head, reads the answers. The networks never change.

Array names end in their axes: N networks of the zoo, B of a batch, P probes, D coordinates of a
probe, R values of a response, O outputs of the head, T steps of an epoch.
"""

import math
import sys
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

jax.config.update("jax_default_matmul_precision", "highest")  # a GPU might round to TF32
SEED, EPOCHS = (int(argument) for argument in sys.argv[1:] or (0, 100))


def uniform(bound):
    """Flax initialiser that draws from U(-bound, bound)."""
    return lambda key, shape, *_, **__: jax.random.uniform(key, shape, jnp.float32, -bound, bound)


# ---- The zoo: networks are data, (kernel, bias) of three layers, stacked along a first axis N.
digits = load_digits()
labels_N, N = jnp.asarray(digits.target), len(digits.target)
images_NxPxR = jnp.asarray(digits.images.reshape(N, 64, 1) / 16, jnp.float32)
x, y = jnp.meshgrid(jnp.linspace(-1, 1, 8), jnp.linspace(-1, 1, 8))
pixels_PxD = jnp.stack([x.ravel(), y.ravel()], axis=1)


def sine(x):
    """The same as jnp.sin, as a series around the nearest multiple of π: faster on a CPU."""
    multiple = jnp.round(x / math.pi)
    r = x - multiple * math.pi
    series = sum((-1) ** k / math.factorial(2 * k + 1) * r ** (2 * k + 1) for k in range(7))
    return (1 - 2 * (multiple % 2)) * series


def siren(network, probes_PxD):
    """One network's responses (P, R) to P probes."""
    (kernel1, bias1), (kernel2, bias2), (kernel3, bias3) = network
    x = sine(30 * (probes_PxD @ kernel1 + bias1))
    x = sine(30 * (x @ kernel2 + bias2))
    return x @ kernel3 + bias3 + 0.5


def fit(network, image_PxR):
    """The network after 200 steps towards drawing the image, and its mean squared error."""
    adam = optax.adam(optax.cosine_decay_schedule(1e-2, 200))

    def mse(network):
        return jnp.mean((siren(network, pixels_PxD) - image_PxR) ** 2)

    def step(_, carry):
        network, state = carry
        updates, state = adam.update(jax.grad(mse)(network), state)
        return optax.apply_updates(network, updates), state

    network, _ = jax.lax.fori_loop(0, 200, step, (network, adam.init(network)))
    return network, mse(network)


keys = jax.random.split(jax.random.key(0), 4)
layer1 = uniform((6 / 2) ** 0.5 / 30)(keys[0], (N, 2, 32)), jnp.zeros((N, 32))
layer2 = uniform((6 / 32) ** 0.5 / 30)(keys[1], (N, 32, 32)), jnp.zeros((N, 32))
layer3 = uniform(32**-0.5)(keys[2], (N, 32, 1)), uniform(32**-0.5)(keys[3], (N, 1))
zoo, mse_N = jax.jit(jax.vmap(fit))((layer1, layer2, layer3), images_NxPxR)
print(f"zoo: {N} networks, {-10 * jnp.log10(mse_N).mean():.0f} dB PSNR on average")
rows = np.random.default_rng(0).permutation(N)
val_rows, test_rows, train_rows = rows[:120], rows[120:360], jnp.asarray(rows[360:])


# ---- The method: latents → generator → probes → every network on every probe → head → outputs.


def linears(*widths, rngs):
    """Linear layers, with PyTorch's default initialisation."""
    return nnx.List(
        nnx.Linear(m, n, kernel_init=uniform(m**-0.5), bias_init=uniform(m**-0.5), rngs=rngs)
        for m, n in pairwise(widths)
    )


class ProbeGen(nnx.Module):
    """128 probes, and a head that turns a network's responses into the logits of ten digits."""

    def __init__(self, rngs):
        self.latents = nnx.Param(jax.random.normal(rngs.params(), (128, 32)))
        self.generator = linears(32, 32, 2, rngs=rngs)
        self.head = linears(128, 256, 256, 256, 256, 256, 10, rngs=rngs)

    def __call__(self, networks_B):
        probes_PxD = self.latents[...]
        for linear in self.generator:  # deep, yet linear: no activation between the layers
            probes_PxD = linear(probes_PxD)
        responses_BxPxR = jax.vmap(siren, in_axes=(0, None))(networks_B, probes_PxD)
        x = responses_BxPxR.reshape(len(responses_BxPxR), -1)
        for linear in self.head[:-1]:
            x = jax.nn.relu(linear(x))
        return self.head[-1](x)


# ---- Training: Adam, its rate falling to 0 along a cosine; batches of 32. An epoch is one call.
rngs = nnx.Rngs(SEED)
structure, params = nnx.split(ProbeGen(rngs))
steps = len(train_rows) // 32
adam = optax.adam(optax.cosine_decay_schedule(2e-3, EPOCHS * steps))


def outputs(params, zoo, rows_B):
    return nnx.merge(structure, params)(jax.tree.map(lambda array: array[rows_B], zoo))


@jax.jit
def train_epoch(params, state, zoo, key):
    def loss(params, rows_B):
        outputs_BxO, labels_B = outputs(params, zoo, rows_B), labels_N[rows_B]
        return optax.softmax_cross_entropy_with_integer_labels(outputs_BxO, labels_B).mean()

    def step(carry, rows_B):
        params, state = carry
        error, gradient = jax.value_and_grad(loss)(params, rows_B)
        updates, state = adam.update(gradient, state)
        return (optax.apply_updates(params, updates), state), error

    rows_TxB = jax.random.permutation(key, train_rows)[: steps * 32].reshape(steps, 32)
    return jax.lax.scan(step, (params, state), rows_TxB)


@jax.jit
def accuracy(params, zoo, rows_B):
    return jnp.mean(outputs(params, zoo, rows_B).argmax(axis=1) == labels_N[rows_B])


state = adam.init(params)
for epoch in range(EPOCHS):
    (params, state), losses_T = train_epoch(params, state, zoo, rngs.order())
    if epoch % 10 == 9:
        print(f"{epoch + 1}: loss {losses_T.mean():.4f}, val {accuracy(params, zoo, val_rows):.4f}")
print(f"test accuracy {accuracy(params, zoo, test_rows):.4f}")
