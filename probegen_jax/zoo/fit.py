"""Fits thousands of SIRENs at once, one per image, each from its own random start."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key

from probegen_jax.networks.siren import SirenSpec


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How each network is fitted: Adam on the mean squared error of all pixels a step.

    Attributes:
      steps: of Adam.
      learning_rate: at the first step.
      cosine: whether it falls to 0 along a cosine; it stays as it is otherwise.
      upsample: the image is enlarged so many times, bilinear, before it is fitted.
      stop_psnr: a network that reaches so many dB is left as it is; None: never.
    """

    steps: int = 80
    learning_rate: float = 5e-3
    cosine: bool = True
    upsample: int = 1
    stop_psnr: float | None = None


class Fitter:
    """Fits SIRENs to images of one size."""

    def __init__(self, spec: SirenSpec, recipe: Recipe, seed: int, block_size: int = 8):
        """Args:
        spec: of the networks; its `out_dim` is the images' channel count.
        recipe: of the fit.
        seed: of the initial weights.
        block_size: networks that are fitted side by side. On a CPU a few fill the vector units and
          still fit the cache.
        """
        self.spec, self.recipe = spec, recipe
        self._key = jax.random.key(seed)
        self._block_size = block_size

    def __call__(
        self,
        images: Float[np.ndarray, "N H W C"],
        indices: Int[np.ndarray, " N"],
        attempt: int = 0,
    ) -> tuple[Float[np.ndarray, "N V"], Float[np.ndarray, " N"]]:
        """One network for each image.

        Args:
          images: values as the networks shall draw them, [0, 1] for the published zoos.
          indices: a network's start follows from the seed, its index and the attempt alone, and so
            do its weights; not from the other networks.
          attempt: another number is another start.

        Returns:
          Each network's weights as a vector, for `vectors.unflatten`, and its PSNR in dB for a peak
          value of 1.
        """
        number, height, width, channels = images.shape
        vectors, mse = _fit(
            self.spec,
            self.recipe,
            jnp.asarray(images.reshape(number, height * width, channels)),
            jnp.asarray(self.spec.pixel_coordinates(height, width)),
            jax.random.fold_in(self._key, attempt) if attempt else self._key,
            jnp.asarray(indices, jnp.int32),
            self._block_size,
        )
        psnr = -10 * np.log10(np.maximum(np.asarray(mse), np.finfo(np.float32).tiny))
        return np.asarray(vectors), psnr


@functools.partial(jax.jit, static_argnames=("spec", "recipe", "block_size"))
def _fit(
    spec: SirenSpec,
    recipe: Recipe,
    pixels_NxHWxC: Float[Array, "N HW C"],
    coordinates: Float[Array, "HW D"],
    key: Key[Array, ""],
    indices_N: Int[Array, " N"],
    block_size: int,
) -> tuple[Float[Array, "N V"], Float[Array, " N"]]:
    rate = recipe.learning_rate
    optimizer = optax.adam(
        optax.cosine_decay_schedule(rate, recipe.steps) if recipe.cosine else rate
    )

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

        carry = (weights, optimizer.init(weights))
        (weights, _), _ = jax.lax.scan(step, carry, length=recipe.steps)
        return ravel_pytree(weights)[0], mse(weights, pixels_HWxC)

    return jax.lax.map(fit, (pixels_NxHWxC, indices_N), batch_size=block_size)
