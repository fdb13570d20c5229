"""The built-in INR zoo: one SIREN for each of scikit-learn's 1,797 real 8×8 digits."""

import pathlib

import numpy as np

from probegen_jax import user_cache
from probegen_jax.factory import parts
from probegen_jax.factory.images import sources
from probegen_jax.factory.inr import fit
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.zoo import cache, flat_weights
from probegen_jax.zoo.zoo import Zoo

_RECIPE = fit.Recipe(steps=200, learning_rate=1e-2, start="dwsnets")  # 98 dB PSNR on average
_SEED, _SPLIT_SEED = 0, 0
# About 7 % for validation and 13 % for test; the rest is for training.
_VAL, _TEST = 120, 240


def load(data_dir: pathlib.Path | None = None) -> Zoo:
    """The zoo, fitted on the first call and read from the cache after it."""
    spec = SirenSpec()
    digits = sources.digits().train

    def build() -> cache.Arrays:
        fitter = fit.Fitter(spec, _RECIPE, _SEED, digits.images.shape[1:])
        weights, psnr = fitter(digits.images, np.arange(len(digits)))
        return {"weights": weights, "psnr": psnr}

    key = {
        "images": sources.digest([digits]),
        "spec": repr(spec),
        "fit": repr((_RECIPE, _SEED)),
        "code": parts.code_hash(fit),
    }
    arrays = cache.cached_arrays(data_dir or user_cache.default_dir(), "digits", key, build)
    weights = flat_weights.unflatten(arrays["weights"], spec.abstract())
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(digits)).astype(np.int32)
    val, test, train = map(np.sort, np.split(order, [_VAL, _VAL + _TEST]))
    splits = {"train": train, "val": val, "test": test}
    own = {"image_shape": digits.images.shape[1:3], "psnr_N": arrays["psnr"]}
    return Zoo("digits", spec, weights, digits.labels, splits, "classification", 10, **own)
