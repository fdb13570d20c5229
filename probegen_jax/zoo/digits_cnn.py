"""The built-in CNN zoo: classifiers of scikit-learn's digits, and how well each of them does.

Dozens of architectures (width, depth, kernels, activations, residual links) with several networks
each, which differ in learning rate, scale of the initial weights, length of training and share of
the training images. The target is the accuracy on digits that no network saw.
"""

import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from probegen_jax.networks import activations, cnn, conv_layer
from probegen_jax.networks.cnn import CnnSpec
from probegen_jax.networks.conv_layer import ConvLayer
from probegen_jax.networks.mixed import build
from probegen_jax.zoo import cache, digits, fit_cnn
from probegen_jax.zoo.zoo import Zoo

_CHANNELS = (4, 8, 16)
_KERNELS = {3: 0.7, 5: 0.3}
_DEPTHS = (2, 3, 4)
# Sigmoids are rarer: most networks with two of them learn nothing in so few steps, and a zoo should
# not be mostly chance.
_ACTIVATIONS = {"relu": 0.225, "gelu": 0.225, "tanh": 0.225, "leaky_relu": 0.225, "sigmoid": 0.1}
_TRAIN_IMAGES = 1200  # of 1,797; the rest tells how good a network is


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a zoo is made of; everything in it is part of the cache key.

    Attributes:
      architectures: how many different ones.
      networks: trained of each.
      min_steps: of the shortest training.
      max_steps: of the longest; lengths are uniform in the logarithm.
      batch_size: images in a step.
      seed: of all choices.
    """

    architectures: int = 60
    networks: int = 8
    min_steps: int = 50
    max_steps: int = 250
    batch_size: int = 32
    seed: int = 0


def load(data_dir: pathlib.Path | None = None, recipe: Recipe | None = None) -> Zoo:
    """The zoo, trained on the first call and read from the cache after it.

    Args:
      data_dir: cache folder; `cache.default_dir()` if None.
      recipe: of the zoo; the default one if None.

    Returns:
      The zoo, with weights on the host: seven tenths of the architectures to train on, a tenth for
      validation, a fifth to test. No architecture is in two splits.
    """
    recipe = recipe or Recipe()
    specs = sample_specs(recipe)
    images, labels = _images(recipe.seed)
    key = {
        "images": hashlib.sha256(images[0].tobytes() + images[1].tobytes()).hexdigest(),
        "specs": repr(specs),
        "recipe": dataclasses.asdict(recipe),
        "code": cache.source_hash(fit_cnn, activations, cnn, conv_layer),
        "hyper": [
            {name: values.tolist() for name, values in _hyper(recipe, i).items()}
            for i in range(len(specs))
        ],
    }
    arrays = cache.cached_arrays(
        data_dir or cache.default_dir(),
        "digits_cnn",
        key,
        lambda: _train(recipe, specs, images, labels),
    )
    weights = [
        network
        for i, spec in enumerate(specs)
        for network in fit_cnn.unravel(spec, arrays[f"weights_{i}"])
    ]
    per_network = [spec for spec in specs for _ in range(recipe.networks)]
    mixed, stacked = build(per_network, weights)
    return Zoo(
        "digits_cnn",
        mixed,
        stacked,
        arrays["accuracy"],
        _splits(recipe),
        "regression",
        1,
    )


def sample_specs(recipe: Recipe) -> list[CnnSpec]:
    """The zoo's architectures, all different.

    Layers have stride 1 and keep the image's size, so any earlier layer can be a residual source.
    """
    rng = np.random.default_rng([recipe.seed, 0])
    specs: dict[CnnSpec, None] = {}
    while len(specs) < recipe.architectures:
        depth = int(rng.choice(_DEPTHS))
        channels = [1, *(int(width) for width in rng.choice(_CHANNELS, depth))]
        layers = []
        for index in range(depth):
            kernel = int(_choice(rng, _KERNELS))
            source = int(rng.integers(0, index)) if index and rng.random() < 0.4 else -1
            activation = str(_choice(rng, _ACTIVATIONS))
            layers.append(
                ConvLayer(
                    channels[index], channels[index + 1], kernel, 1, kernel // 2, activation, source
                )
            )
        specs[CnnSpec(tuple(layers), num_classes=10, image_shape=(8, 8, 1))] = None
    return list(specs)


def _choice(rng: np.random.Generator, shares: Mapping[Any, float]) -> Any:
    return rng.choice(list(shares), p=list(shares.values()))


def _hyper(recipe: Recipe, architecture: int) -> fit_cnn.HyperParameters:
    """Hyper-parameters of the networks of one architecture."""
    rng = np.random.default_rng([recipe.seed, 1, architecture])
    number = recipe.networks
    steps = np.exp(rng.uniform(np.log(recipe.min_steps), np.log(recipe.max_steps), number))
    images = rng.choice([0.05, 0.1, 0.25, 0.5, 1.0], number) * _TRAIN_IMAGES
    return {
        "learning_rate": (10 ** rng.uniform(-2.5, -1.4, number)).astype(np.float32),
        "init_scale": (10 ** rng.uniform(-0.2, 0.5, number)).astype(np.float32),
        "steps": steps.astype(np.int32),
        "images": images.astype(np.int32),
    }


def _images(
    seed: int,
) -> tuple[
    tuple[Float[np.ndarray, "M H W C"], Float[np.ndarray, "E H W C"]],
    tuple[Int[np.ndarray, " M"], Int[np.ndarray, " E"]],
]:
    """Digits in [-1, 1] to train on and to test on, and their classes."""
    images, labels = digits.images()
    order = np.random.default_rng([seed, 2]).permutation(len(images))
    train, test = order[:_TRAIN_IMAGES], order[_TRAIN_IMAGES:]
    images = images * np.float32(2) - np.float32(1)
    return (images[train], images[test]), (labels[train], labels[test])


def _train(recipe: Recipe, specs, images, labels) -> cache.Arrays:
    """All architectures, as many at once as there are cores: one alone keeps one busy."""

    def one(i: int) -> tuple[np.ndarray, np.ndarray]:
        indices = np.arange(i * recipe.networks, (i + 1) * recipe.networks)
        return fit_cnn.train_cnns(
            specs[i],
            _hyper(recipe, i),
            recipe.seed,
            indices,
            images,
            labels,
            batch_size=recipe.batch_size,
        )

    number = len(specs)
    results: list = [None] * number
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=number * recipe.networks, desc="training", unit="net", disable=None) as bar,
    ):
        jobs = {pool.submit(one, i): i for i in range(number)}
        for job in concurrent.futures.as_completed(jobs):
            results[jobs[job]] = job.result()
            bar.update(recipe.networks)
    arrays = {f"weights_{i}": weights for i, (weights, _) in enumerate(results)}
    return arrays | {"accuracy": np.concatenate([accuracy for _, accuracy in results])}


def _splits(recipe: Recipe) -> dict[str, Int[np.ndarray, " n"]]:
    """Rows of each split: whole architectures."""
    order = np.random.default_rng([recipe.seed, 3]).permutation(recipe.architectures)
    num_val = max(1, recipe.architectures // 10)
    num_test = max(1, recipe.architectures // 5)
    parts = {
        "val": order[:num_val],
        "test": order[num_val : num_val + num_test],
        "train": order[num_val + num_test :],
    }
    rows = np.arange(recipe.architectures * recipe.networks, dtype=np.int32)
    by_architecture = rows.reshape(recipe.architectures, recipe.networks)
    return {name: by_architecture[np.sort(part)].ravel() for name, part in parts.items()}
