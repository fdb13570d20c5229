"""The built-in CNN zoo: classifiers of scikit-learn's digits, and how well each of them does.

Dozens of architectures (width, depth, kernels, activations, residual links) with several networks
each, which differ in learning rate, scale of the initial weights, length of training and share of
the training images. The target is the accuracy on digits that no network saw.
"""

import pathlib

import jax
import numpy as np
from tqdm import tqdm

from probegen_jax.factory.builtin import digits
from probegen_jax.factory.cnn import fit, initial_weights, optimizers, search_space
from probegen_jax.factory.cnn.train_cnns import CnnFactory, finite
from probegen_jax.factory.images import sources as image_sources
from probegen_jax.factory.images.files import Part
from probegen_jax.factory.images.sources import ImageSet
from probegen_jax.networks import activations
from probegen_jax.networks.cnn import cnn, layer, matmuls
from probegen_jax.networks.mixed_cnn.mixed import build
from probegen_jax.zoo import cache, splits
from probegen_jax.zoo.flat_weights import unflatten
from probegen_jax.zoo.zoo import SPLITS, Zoo

_TRAIN_IMAGES = 1200  # of 1,797; the rest tells how good a network is
_VAL_SHARE, _TEST_SHARE = 0.1, 0.2  # of the architectures
_SEED = 0


def load(
    data_dir: pathlib.Path | None = None, number: int = 480, space: search_space.Space | None = None
) -> Zoo:
    """The zoo, trained on the first call and read from the cache after it.

    Args:
      data_dir: cache folder; `cache.default_dir()` if None.
      number: of networks.
      space: to draw them from; that of `spaces/digits_cnn.py` if None.

    Returns:
      The zoo, with weights on the host: seven tenths of the architectures to train on, a tenth for
      validation, a fifth to test. No architecture is in two splits.
    """
    space = space or search_space.read("digits_cnn")
    images = digit_images()
    key = {
        "images": images.digest,
        "networks": number,
        "seed": _SEED,
        "space": {name: repr(value) for name, value in space.items()},
        "code": cache.source_hash(
            activations, cnn, layer, matmuls, optimizers, search_space, initial_weights, fit
        ),
    }
    arrays = cache.cached_arrays(
        data_dir or cache.default_dir(), "digits_cnn", key, lambda: _train(images, space, number)
    )
    planned = search_space.plan(space, number, images.image_shape, 10, _TRAIN_IMAGES, _SEED)
    specs = [planned[index].spec for index in arrays["index"]]
    weights = []
    for spec, vector in zip(specs, np.split(arrays["weights"], arrays["ends"][:-1]), strict=True):
        stacked = unflatten(vector[None], spec.abstract())
        weights.append(jax.tree.map(lambda leaf: leaf[0], stacked))
    mixed, packed = build(specs, weights)
    of_spec: dict[cnn.CnnSpec, list[int]] = {}
    for row, spec in enumerate(specs):
        of_spec.setdefault(spec, []).append(row)
    parts = splits.seeded(list(of_spec), _VAL_SHARE, _TEST_SHARE, where="digits_cnn")
    rows = {
        name: np.asarray([row for spec in parts[name] for row in of_spec[spec]], np.int32)
        for name in SPLITS
    }
    return Zoo("digits_cnn", mixed, packed, arrays["accuracy"], rows, "regression", 1)


def digit_images() -> ImageSet:
    """The digits, two thirds of them to train on."""
    pixels, labels = digits.images()
    order = np.random.default_rng([_SEED, 2]).permutation(len(pixels))
    train, test = (Part(pixels[rows], labels[rows]) for rows in np.split(order, [_TRAIN_IMAGES]))
    names = tuple(map(str, range(10)))
    return ImageSet("digits", train, test, 10, names, image_sources.digest([train, test]))


def _train(images: ImageSet, space: search_space.Space, number: int) -> cache.Arrays:
    factory = CnnFactory(images, space, number, _SEED)
    found: dict[int, tuple[np.ndarray, np.float32]] = {}
    try:
        with tqdm(total=number, desc="training", unit="net", disable=None) as bar:
            for part, members in enumerate(factory.parts):
                arrays = factory.make(part)
                for row, index in enumerate(members):
                    if rows := finite(factory.planned[index], arrays, row):
                        weights = arrays["weights"][row, rows[-1]]
                        found[index] = weights, arrays["test_accuracy"][row, rows[-1]]
                bar.update(len(members))
    finally:
        factory.close()
    indices = sorted(found)
    vectors = [found[index][0] for index in indices]
    return {
        "index": np.asarray(indices, np.int32),
        "weights": np.concatenate(vectors),
        "ends": np.cumsum([len(vector) for vector in vectors]),
        "accuracy": np.asarray([found[index][1] for index in indices], np.float32),
    }
