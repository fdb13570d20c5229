"""Trains many small CNNs of one architecture, each with its own hyper-parameters, in one program.

Hyper-parameters are data, so an architecture is compiled once. Convolutions are written as matmuls
over patches. On a CPU networks run one after the other, in the form of `images_last`, and batches
whose patches do not fit the cache go through in chunks.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from probegen_jax.factory.cnn import images_last, optimizers
from probegen_jax.factory.cnn.dropout import Dropout
from probegen_jax.factory.cnn.initial_weights import initial
from probegen_jax.factory.images.files import Part
from probegen_jax.networks.cnn import forward
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.zoo.cache import Arrays

# Bytes of patches that a chunk of images may have in its largest layer: what a core's cache takes.
_CACHE = 1_500_000
# Architectures that stay compiled. Each takes some 300 memory maps, of which Linux gives a process
# 65,530.
_MOST_COMPILED = 64
# The first layer's patches of all images are made once, if they are not so many times the images
# and not more bytes altogether.
_MOST_TIMES, _MOST_BYTES = 4, 1 << 30


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """How one network is trained.

    Attributes:
      index: with the seed, it decides initial weights, images and batches.
      optimizer: a name in `optimizers.OPTIMIZERS`.
      l2reg: λ of λ·Σw² over all kernels, which is added to the loss, as in Keras.
      dropout: share of each convolution's outputs that is dropped in training.
      train_images: how many of the images it sees.
      kept: steps after which it is kept, ascending; training ends with the last.
    """

    index: int
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.0
    w_init: str = "torch"
    init_std: float = 0.0
    init_scale: float = 1.0
    l2reg: float = 0.0
    dropout: float = 0.0
    train_images: int = 1
    kept: tuple[int, ...] = (0,)


class Trainer:
    """Trains CNNs on one set of images."""

    def __init__(
        self,
        train: Part,
        test: Part,
        seed: int,
        *,
        eval_images: int = 2048,
        platform: str = "cpu",
    ):
        """Args:
        train: images as the networks shall see them.
        test: likewise.
        seed: of initial weights, subsets and batches.
        eval_images: how many of its training images a network's training accuracy is taken over.
        platform: of the device that it runs on: "cpu", "gpu" or "tpu".
        """
        self._on_cpu = platform == "cpu"
        self.sizes = len(train), len(test)
        self._images = jnp.asarray(np.concatenate([train.images, test.images]))
        self._channels_first = jnp.moveaxis(self._images, -1, 1) if self._on_cpu else self._images
        self._labels = jnp.asarray(np.concatenate([train.labels, test.labels]), jnp.int32)
        self._seed, self._eval_images = seed, min(eval_images, self.sizes[0])
        self._patches: dict[tuple[int, int, int], jax.Array] = {}
        self._compiled: set[CnnSpec] = set()

    def __call__(
        self, spec: CnnSpec, runs: list[TrainingRun], batch_size: int, steps: int, kept: int
    ) -> Arrays:
        """Trains networks of one architecture.

        Args:
          runs: a network each. What it becomes follows from the seed and its run alone.
          steps: of the longest run there is, in this call or others: calls of equal `steps` and
            `kept` share a compilation.
          kept: of the run that keeps most.

        Returns:
          Of N networks, each at its K kept steps (a run that keeps fewer repeats its last):
          `weights` (N, K, V), for `flat_weights.unflatten` and the spec's `abstract()`;
          `train_accuracy`, `train_loss`, `test_accuracy` and `test_loss`, (N, K) each. Losses are
          the mean cross-entropy, without dropout and without the l2 term.
        """
        if spec not in self._compiled and len(self._compiled) >= _MOST_COMPILED:
            _train.clear_cache()
            self._compiled.clear()
        self._compiled.add(spec)
        numbers = [self._on_host(spec, run, batch_size, steps, kept) for run in runs]
        images, made = self._input(spec)
        dropout = any(run.dropout for run in runs)
        # One at a time on a CPU, so that any number of networks is the same compilation.
        block = 1 if self._on_cpu else len(runs)
        parts = []
        for first in range(0, len(runs), block):
            side_by_side = numbers[first : first + block]
            networks = {name: np.stack([n[name] for n in side_by_side]) for name in numbers[0]}
            how = spec, made, dropout, batch_size, block, self._on_cpu
            parts.append(_train(*how, networks, images, self._labels))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _input(self, spec: CnnSpec) -> tuple[jax.Array, bool]:
        """What networks read: the first layer's patches of all images, or the images.

        On a CPU, it is the images with channels first.
        """
        if self._on_cpu:
            return self._channels_first, False
        layer = spec.layers[0]
        pixels = math.prod(spec.sizes[0]) * layer.kernel**2 * layer.in_channels
        times = pixels / math.prod(spec.image_shape)
        if times > _MOST_TIMES or 4 * pixels * sum(self.sizes) > _MOST_BYTES:
            return self._images, False
        key = (layer.kernel, layer.stride, layer.padding)
        if key not in self._patches:
            self._patches[key] = forward.patches(self._images, layer)
        return self._patches[key], True

    def _on_host(self, spec: CnnSpec, run: TrainingRun, batch_size: int, steps: int, kept: int):
        rng = np.random.default_rng([self._seed, run.index])
        start = np.float32(run.init_scale) * initial(spec, run.w_init, run.init_std, rng)
        dropout_seed = rng.integers(0, 2**32, dtype=np.uint32)
        subset = rng.permutation(self.sizes[0])[: run.train_images]
        used = subset[_batches(rng, len(subset), run.kept[-1], batch_size)]
        rows = np.zeros((max(1, steps), batch_size), np.int32)
        rows[: len(used)] = used
        seen = subset[: self._eval_images]
        floats = ("learning_rate", "momentum", "l2reg", "dropout")
        return {
            "start": start,
            "rows": rows,
            "seen": np.pad(seen, (0, self._eval_images - len(seen))).astype(np.int32),
            "num_seen": np.int32(len(seen)),
            "test": np.arange(self.sizes[0], sum(self.sizes), dtype=np.int32),
            "kept": np.asarray(run.kept + run.kept[-1:] * (kept - len(run.kept)), np.int32),
            "optimizer": np.int32(optimizers.OPTIMIZERS.index(run.optimizer)),
            "dropout_seed": dropout_seed,
            **{name: np.float32(getattr(run, name)) for name in floats},
        }


def _batches(
    rng: np.random.Generator, number: int, steps: int, batch_size: int
) -> Int[np.ndarray, "T I"]:
    """Images of each step, by number: shuffled each epoch, what is left over dropped."""
    per_epoch = max(1, number // batch_size)
    epochs = [
        np.resize(rng.permutation(number), per_epoch * batch_size)
        for _ in range(-(-steps // per_epoch))
    ]
    images = np.concatenate([np.zeros(0, np.int64), *epochs])
    return images[: steps * batch_size].reshape(steps, batch_size)


@functools.partial(
    jax.jit,
    static_argnames=("spec", "patched", "with_dropout", "batch_size", "block_size", "on_cpu"),
)
def _train(
    spec: CnnSpec,
    patched: bool,
    with_dropout: bool,
    batch_size: int,
    block_size: int,
    on_cpu: bool,
    networks: dict[str, Array],
    images: Float[Array, "I h w F"],
    labels: Int[Array, " I"],
) -> dict[str, Float[Array, "N K ..."]]:
    def is_of_kernel(path, leaf):
        return jnp.full(leaf.shape, path[-1].key == "kernel", jnp.float32)

    is_kernel, weights_of = ravel_pytree(jax.tree.map_with_path(is_of_kernel, spec.abstract()))

    def losses(vector, rows, dropout=None):
        weights = weights_of(vector)
        if on_cpu:
            shown = jnp.moveaxis(jax.lax.optimization_barrier(images[rows]), 0, -1)
            logits = images_last.run(spec.layers, weights, shown, dropout)
        else:
            first = images[rows] if patched else forward.patches(images[rows], spec.layers[0])
            logits = forward.run_on_patches(spec.layers, (), weights, first, dropout)
        right = jnp.argmax(logits, axis=-1) == labels[rows]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]), right

    def train(network):
        def gradient(vector, t):
            def chunk(i, total):
                rows = jax.lax.dynamic_slice_in_dim(network["rows"][t], i * size, size)
                words = network["dropout_seed"], t, i
                dropout = Dropout(network["dropout"], words) if with_dropout else None

                def loss(vector):
                    losses_I, _ = losses(vector, rows, dropout)
                    return jnp.sum(losses_I) / batch_size

                return total + jax.grad(loss)(vector)

            size = _chunk_size(spec, batch_size, on_cpu)
            chunks, zero = batch_size // size, jnp.zeros_like(vector)
            grad = chunk(0, 0.0) if chunks == 1 else jax.lax.fori_loop(0, chunks, chunk, zero)
            return grad + 2 * network["l2reg"] * is_kernel * vector

        def step(t, carry):
            vector, state = carry
            update, state = optimizers.update(
                network["optimizer"], network["momentum"], gradient(vector, t), state, t
            )
            return vector - network["learning_rate"] * update, state

        def until(carry, kept):
            t, vector, state = carry
            vector, state = jax.lax.fori_loop(t, kept, step, (vector, state))
            evaluate = functools.partial(_evaluate, spec, on_cpu, functools.partial(losses, vector))
            seen, test = network["seen"], network["test"]
            shown = {"weights": vector}
            shown["train_loss"], shown["train_accuracy"] = evaluate(seen, network["num_seen"])
            shown["test_loss"], shown["test_accuracy"] = evaluate(test, jnp.int32(len(test)))
            return (kept, vector, state), shown

        start = network["start"]
        carry = (jnp.int32(0), start, (jnp.zeros_like(start), jnp.zeros_like(start)))
        return jax.lax.scan(until, carry, network["kept"])[1]

    return jax.lax.map(train, networks, batch_size=block_size if block_size > 1 else None)


def _evaluate(
    spec: CnnSpec, on_cpu: bool, losses, rows, number
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean loss and accuracy on the first `number` images of `rows`."""
    size = min(_chunk_size(spec, 256, on_cpu), rows.shape[0])
    rows = jnp.pad(rows, (0, -rows.shape[0] % size))

    def add(i, sums):
        losses_I, right_I = losses(jax.lax.dynamic_slice_in_dim(rows, i * size, size))
        counts = i * size + jnp.arange(size) < number
        return (
            sums[0] + jnp.sum(jnp.where(counts, losses_I, 0)),
            sums[1] + jnp.sum(counts & right_I, dtype=jnp.int32),
        )

    used = (number + size - 1) // size
    loss, right = jax.lax.fori_loop(0, used, add, (jnp.float32(0), jnp.int32(0)))
    return loss / number.astype(jnp.float32), right.astype(jnp.float32) / number.astype(jnp.float32)


def _chunk_size(spec: CnnSpec, batch_size: int, on_cpu: bool) -> int:
    """Images that go through at a time: a divisor of the batch; all of them but on a CPU."""
    if not on_cpu:
        return batch_size
    largest = max(
        4 * height * width * layer.kernel**2 * layer.in_channels
        for layer, (height, width) in zip(spec.layers, spec.sizes, strict=True)
    )
    fitting = min(batch_size, max(1, _CACHE // largest))
    return next(size for size in range(fitting, 0, -1) if batch_size % size == 0)
