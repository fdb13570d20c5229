"""Trains many small CNNs of one architecture, each with its own hyper-parameters, in one program.

Convolutions are written as matmuls over patches, and networks run one after the other on a CPU.
Measured there (two cores, 64 images of 8×8, three layers of 16 channels, a step of one network):
this way 4.5 ms, all networks side by side 5.9; XLA's convolutions, which run on a single thread
within a loop, 84 and 105.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from probegen_jax.networks import matmul_cnn
from probegen_jax.networks.cnn import CnnSpec, CnnWeights

# Per network, each (N,): `learning_rate`, Adam's; `init_scale`, the factor on the initial weights;
# `steps` of training; `images`, how many of the training images it sees.
HyperParameters = dict[str, np.ndarray]


@functools.partial(jax.jit, static_argnames=("spec", "block_size"))
def _train(
    spec: CnnSpec,
    hyper: dict[str, Array],
    start_NxV: Float[Array, "N V"],
    rows_NxTxB: Int[Array, "N T B"],
    images: tuple[Float[Array, "M H W C"], Float[Array, "E H W C"]],
    labels: tuple[Int[Array, " M"], Int[Array, " E"]],
    block_size: int,
) -> tuple[Float[Array, "N V"], Float[Array, " N"]]:
    (train_images, test_images), (train_labels, test_labels) = images, labels
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), spec.abstract()))
    optimizer = optax.scale_by_adam()

    def apply(weights, images):
        first = matmul_cnn.patches(images, spec.layers[0])
        return matmul_cnn.apply(spec.layers, spec.activations, weights, first)

    def train(network):
        hyper, start, rows_TxB = network

        def loss(vector, rows):
            logits = apply(unravel(vector), train_images[rows])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, train_labels[rows])
            return jnp.mean(losses)

        def step(t, carry):
            vector, state = carry
            grad = jax.grad(loss)(vector, rows_TxB[t])
            with jax.numpy_dtype_promotion("standard"):  # optax multiplies its integer step count
                update, state = optimizer.update(grad, state)
            return vector - hyper["learning_rate"] * update, state

        carry = (start, optimizer.init(start))
        vector, _ = jax.lax.fori_loop(0, hyper["steps"], step, carry)
        guesses = jnp.argmax(apply(unravel(vector), test_images), axis=-1)
        return vector, jnp.mean(guesses == test_labels, dtype=jnp.float32)

    return jax.lax.map(train, (hyper, start_NxV, rows_NxTxB), batch_size=block_size)


def train_cnns(
    spec: CnnSpec,
    hyper: HyperParameters,
    seed: int,
    indices_N: Int[np.ndarray, " N"],
    images: tuple[Float[np.ndarray, "M H W C"], Float[np.ndarray, "E H W C"]],
    labels: tuple[Int[np.ndarray, " M"], Int[np.ndarray, " E"]],
    *,
    batch_size: int,
) -> tuple[Float[np.ndarray, "N V"], Float[np.ndarray, " N"]]:
    """Trains N networks of one architecture with Adam on the cross-entropy.

    Args:
      spec: their architecture.
      hyper: their hyper-parameters.
      seed: of initial weights, subsets and batches.
      indices_N: network n depends on (seed, indices_N[n]) and its hyper-parameters alone.
      images: M to train on and E to test on.
      labels: their classes.
      batch_size: images in a step.

    Returns:
      Each network's weights as one vector, for `unravel`, and its accuracy on the test images. A
      network that diverged has the accuracy it has: about chance.
    """
    starts, rows = [], []
    for n, index in enumerate(indices_N):
        # Random numbers come from the host: drawn inside, they are most of the compilation.
        rng = np.random.default_rng([seed, int(index)])
        starts.append(hyper["init_scale"][n] * _initial(spec, rng))
        subset = rng.permutation(len(images[0]))[: hyper["images"][n]]
        rows.append(subset[rng.integers(0, len(subset), (hyper["steps"].max(), batch_size))])
    vectors, accuracies = _train(
        spec,
        {name: jnp.asarray(hyper[name]) for name in ("learning_rate", "steps")},
        jnp.asarray(np.stack(starts), jnp.float32),
        jnp.asarray(np.stack(rows), jnp.int32),
        jax.tree.map(jnp.asarray, images),
        jax.tree.map(jnp.asarray, labels),
        1 if jax.default_backend() == "cpu" else len(indices_N),
    )
    return np.asarray(vectors), np.asarray(accuracies)


def _initial(spec: CnnSpec, rng: np.random.Generator) -> Float[np.ndarray, " V"]:
    """PyTorch's default start, U(±1/√fan_in) for kernels and biases, as one vector."""
    parts = []
    weights = spec.abstract()
    for affine in (*weights["layers"], weights["head"]):
        bound = 1 / np.sqrt(np.prod(affine["kernel"].shape[:-1]))
        start = {
            name: rng.uniform(-bound, bound, affine[name].shape).astype(np.float32)
            for name in ("kernel", "bias")
        }
        parts.append(start)
    tree = {"layers": tuple(parts[:-1]), "head": parts[-1]}
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def unravel(spec: CnnSpec, vectors: Float[np.ndarray, "N V"]) -> list[CnnWeights]:
    """The weights of each network of `train_cnns`, as NumPy arrays."""
    leaves, structure = jax.tree.flatten(spec.abstract())
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    return [
        jax.tree.unflatten(
            structure,
            [
                part.reshape(leaf.shape)
                for part, leaf in zip(np.split(vector, ends), leaves, strict=True)
            ],
        )
        for vector in vectors
    ]
