"""The built-in CNN zoo: classifiers of scikit-learn's digits, and how well each of them does.

Dozens of architectures (width, depth, kernels, activations, residual links) with several networks
each, which differ in learning rate, scale of the initial weights, length of training and share of
the training images. The target is the accuracy on digits that no network saw.
"""

import dataclasses
import functools
import pathlib

import numpy as np

from probegen_jax import user_cache
from probegen_jax.factory.cnn import search_space, train_cnns
from probegen_jax.factory.cnn.planned import plan, split_architectures
from probegen_jax.factory.images import sources
from probegen_jax.factory.images.files import Part
from probegen_jax.factory.images.sources import ImageSet
from probegen_jax.factory.parts import code_hash
from probegen_jax.networks.cnn.published import signed
from probegen_jax.networks.mixed_cnn.mixed import build
from probegen_jax.zoo import cache, flat_weights
from probegen_jax.zoo.zoo import Zoo

_TRAIN_IMAGES = 1200  # of 1,797; the rest tells how good a network is
_SHARES = 0.1, 0.2  # of the architectures, to validate and to test
_SEED = 0


def load(
    data_dir: pathlib.Path | None = None, number: int = 480, space: search_space.Space | None = None
) -> Zoo:
    """The zoo, trained on the first call and read from the cache after it.

    Seven tenths of the architectures are for training, a tenth for validation, a fifth for test.
    """
    space = space or search_space.read("digits_cnn")
    images = digit_images()
    key = {
        "images": images.digest,
        "networks": number,
        "seed": _SEED,
        "space": {name: repr(value) for name, value in space.items()},
        "code": code_hash(train_cnns),
    }
    train = functools.partial(train_cnns.last_checkpoints, images, space, number, _SEED)
    folder = data_dir or user_cache.default_dir()
    arrays = cache.cached_arrays(folder, "digits_cnn", key, train)
    planned = plan(space, number, images.image_shape, 10, _TRAIN_IMAGES, _SEED)
    planned = [planned[index] for index in arrays["index"]]
    specs = [network.spec for network in planned]
    vectors = np.split(arrays["weights"], arrays["ends"][:-1])
    weights = [
        flat_weights.unflatten_one(vector, spec.abstract())
        for spec, vector in zip(specs, vectors, strict=True)
    ]
    mixed, packed = build(specs, weights)
    rows_of = split_architectures(planned, range(len(planned)), *_SHARES, where="digits_cnn")
    splits = {split: np.asarray(rows, np.int32) for split, rows in rows_of.items()}
    mixed = dataclasses.replace(mixed, pixels=signed(1))
    return Zoo("digits_cnn", mixed, packed, arrays["accuracy"], splits, "regression", 1)


def digit_images() -> ImageSet:
    """The digits, two thirds of them to train on."""
    found = sources.digits().train
    order = np.random.default_rng([_SEED, 2]).permutation(len(found))
    rows_of = np.split(order, [_TRAIN_IMAGES])
    parts = [Part(found.images[rows], found.labels[rows]) for rows in rows_of]
    return ImageSet("digits", *parts, 10, tuple("0123456789"), sources.digest(parts))
