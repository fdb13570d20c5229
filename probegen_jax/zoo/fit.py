"""Fits thousands of SIRENs at once, one per image, each from its own random start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key
from tqdm import tqdm

from probegen_jax.networks.siren import SirenSpec, SirenWeights

# Networks that one call fits: few enough for a progress bar to move, enough to hide the call.
_CHUNK = 256


@functools.partial(jax.jit, static_argnames=("spec", "steps", "block_size"))
def _fit_chunk(
    spec: SirenSpec,
    pixels_NxHWxC: Float[Array, "N HW C"],
    coordinates: Float[Array, "HW D"],
    key: Key[Array, ""],
    indices_N: Int[Array, " N"],
    steps: int,
    learning_rate: Float[Array, ""],
    block_size: int,
) -> tuple[SirenWeights, Float[Array, " N"]]:
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def mse(weights, pixels_HWxC):
        return jnp.mean(jnp.square(spec.apply(weights, coordinates) - pixels_HWxC))

    def fit(network):
        pixels_HWxC, index = network
        weights = spec.init(jax.random.fold_in(key, index))

        def step(carry, _):
            weights, state = carry
            grads = jax.grad(mse)(weights, pixels_HWxC)
            with jax.numpy_dtype_promotion("standard"):  # optax multiplies its integer step count
                updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(weights, updates), state), None

        (weights, _), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), length=steps)
        return weights, mse(weights, pixels_HWxC)

    return jax.lax.map(fit, (pixels_NxHWxC, indices_N), batch_size=block_size)


def fit_sirens(
    spec: SirenSpec,
    images: Float[np.ndarray, "N H W C"],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    block_size: int = 8,
) -> tuple[SirenWeights, Float[np.ndarray, " N"]]:
    """One SIREN per image: Adam on the mean squared error, cosine learning rate, all pixels a step.

    Args:
      spec: of the networks; its `out_dim` is the images' channel count.
      images: values as the networks shall draw them, [0, 1] for the published zoos.
      steps: Adam steps for each network.
      learning_rate: at the first step; it falls to 0.
      seed: of the initial weights; network i depends on (seed, i) alone, not on the others.
      block_size: networks that are fitted side by side. On a CPU a few fill the vector units and
        still fit the cache.

    Returns:
      Stacked weights, and each network's PSNR in dB for a peak value of 1.
    """
    number, height, width, channels = images.shape
    coordinates = jnp.asarray(spec.pixel_coordinates(height, width))
    pixels = images.reshape(number, height * width, channels)
    key = jax.random.key(seed)
    chunks, errors = [], []
    with tqdm(total=number, desc="fitting networks", unit="net", disable=None) as bar:
        for start in range(0, number, _CHUNK):
            indices = np.arange(start, start + _CHUNK)
            # The last chunk repeats networks so that one compilation serves all chunks.
            repeated = np.minimum(indices, number - 1)
            weights, mse = _fit_chunk(
                spec,
                jnp.asarray(pixels[repeated]),
                coordinates,
                key,
                jnp.asarray(repeated, jnp.int32),
                steps,
                jnp.float32(learning_rate),
                block_size,
            )
            fitted = min(_CHUNK, number - start)
            chunks.append(jax.tree.map(lambda leaf, n=fitted: np.asarray(leaf[:n]), weights))
            errors.append(np.asarray(mse[:fitted]))
            bar.update(fitted)
    weights = jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)
    psnr = -10 * np.log10(np.maximum(np.concatenate(errors), np.finfo(np.float32).tiny))
    return weights, psnr
