"""The built-in zoo of ResNets: classifiers of five of scikit-learn's ten digits; of which five?

Each network has an output for each of its digits, in their order, and was never shown the others.
So no output tells by its place which digit it stands for.
"""

import concurrent.futures
import contextlib
import itertools
import pathlib

import jax
import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from probegen_jax import cpu_devices, user_cache
from probegen_jax.factory.builtin.digits_cnn import digit_images
from probegen_jax.factory.parts import code_hash
from probegen_jax.factory.resnet import fit
from probegen_jax.networks.cnn import published
from probegen_jax.networks.resnet.resnet import ResNetSpec
from probegen_jax.zoo import cache, flat_weights, splits
from probegen_jax.zoo.zoo import Zoo

PIXELS = published.signed(1)
SPEC = ResNetSpec(
    (8, 16), (1, 1), stem_width=8, num_classes=5, image_shape=(8, 8, 1), pixels=PIXELS
)
RECIPE = fit.Recipe(steps=150, batch_size=32, learning_rate=1e-2)
_VAL, _TEST = 0.1, 0.2  # of the sets of digits
_PART = 20  # networks that are trained, and kept, together: seconds' worth
_SEED = 0


def load(
    data_dir: pathlib.Path | None = None,
    number: int = 600,
    spec: ResNetSpec = SPEC,
    recipe: fit.Recipe = RECIPE,
) -> Zoo:
    """The zoo, trained on the first call and read from the cache after it.

    What a killed call has trained, the next one has. No set of digits is in two splits.
    """
    images = digit_images()
    train_images = len(images.train)
    pixels = PIXELS.normalise(np.concatenate([images.train.images, images.test.images]))
    labels = np.concatenate([images.train.labels, images.test.labels]).astype(np.int32)
    # Every set comes before one comes again.
    sets = np.array(list(itertools.combinations(range(images.num_classes), spec.num_classes)))
    sets = np.random.default_rng(_SEED).permutation(sets)
    key = {
        "images": images.digest,
        "seed": _SEED,
        "spec": repr(spec),
        "recipe": repr(recipe),
        "code": code_hash(fit),
    }

    def train(members: range) -> cache.Arrays:
        rows_NxTxB, outputs_NxL = [], []
        for n in members:
            output_of_L = np.full(images.num_classes, -1, np.int32)
            output_of_L[sets[n % len(sets)]] = np.arange(spec.num_classes)
            outputs_NxL.append(output_of_L)
            rows = np.flatnonzero(output_of_L[labels[:train_images]] >= 0)
            rows_NxTxB.append(_batches(rows, recipe, np.random.default_rng([_SEED, n])))
        keys_N = jax.vmap(jax.random.key)(np.asarray(members))
        drawn = keys_N, np.stack(rows_NxTxB), np.stack(outputs_NxL)
        found = fit.train(spec, recipe, *drawn, pixels, labels, train_images)
        return dict(zip(("weights", "accuracy"), map(np.asarray, found), strict=True))

    def part(members: range) -> cache.Arrays:
        named = {**key, "networks": [members.start, members.stop]}
        folder = data_dir or user_cache.default_dir()
        return cache.cached_arrays(folder, "digits_subsets", named, lambda: train(members))

    parts = [range(n, min(n + _PART, number)) for n in range(0, number, _PART)]
    pool = concurrent.futures.ThreadPoolExecutor(cpu_devices.cores())  # a part keeps one core busy
    made = []
    with contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, cancel_futures=True)
        bar = stack.enter_context(tqdm(total=number, desc="training", unit="net", disable=None))
        # The first one alone, so that the others find it compiled.
        found = itertools.chain([part(parts[0])], pool.map(part, parts[1:]))
        for members, arrays in zip(parts, found, strict=True):
            made.append(arrays["weights"])
            bar.update(len(members))
    weights = flat_weights.unflatten(np.concatenate(made), spec.abstract())
    set_of_N = np.arange(number) % len(sets)
    has_NxL = np.zeros((number, images.num_classes), np.int8)
    np.put_along_axis(has_NxL, sets[set_of_N], 1, axis=1)
    apart = splits.seeded(range(min(number, len(sets))), _VAL, _TEST, where="digits_subsets")
    rows_of = {
        split: np.flatnonzero(np.isin(set_of_N, members)).astype(np.int32)
        for split, members in apart.items()
    }
    return Zoo("digits_subsets", spec, weights, has_NxL, rows_of, "multilabel", images.num_classes)


def _batches(
    rows: Int[np.ndarray, " I"], recipe: fit.Recipe, rng: np.random.Generator
) -> Int[np.ndarray, "T B"]:
    """Images of each step: all of them, shuffled, and then again."""
    shape = recipe.steps, recipe.batch_size
    epochs = -(-recipe.steps * recipe.batch_size // len(rows))
    shown = np.concatenate([rng.permutation(rows) for _ in range(epochs)])
    return shown[: recipe.steps * recipe.batch_size].reshape(shape).astype(np.int32)
