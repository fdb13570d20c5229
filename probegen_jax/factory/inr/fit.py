"""Fits thousands of INRs at once, one per image, each from its own random start.

An image is anything on a grid of one, two or three axes, or values at points of its own.

Networks are fitted in blocks, each a vmap; the blocks of a call are dealt to the devices, and each
device works through its own. What becomes of a network does not depend on where it was fitted.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from probegen_jax.networks.points import PointSpec

# Of a 28×28 image and 64 hidden units: networks that a GPU or TPU fits side by side.
_ACCELERATOR_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How each network is fitted: Adam on the mean squared error of all pixels, or some, a step.

    Attributes:
      cosine: whether it falls to 0 along a cosine; it stays as it is otherwise.
      start: of SIRENs: initial weights, "dwsnets" as in the published zoos (`SirenSpec.init`), or
        "siren" as Sitzmann et al. (2020) have it: a first layer of U(±1/fan_in) and a last one as
        small as the hidden ones. From there 80 steps get as far as 400 from the other.
      upsample: factor by which the image is enlarged, bilinear, before it is fitted.
      stop_psnr: dB, of the pixels of a step, at which a network is not trained any further; None:
        never.
      pixels: that a step looks at, one part of them after the other, in a random order; None: all.
    """

    steps: int = 80
    learning_rate: float = 5e-3
    cosine: bool = True
    start: Literal["siren", "dwsnets"] = "siren"
    upsample: int = 1
    stop_psnr: float | None = None
    pixels: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values, and as earlier versions wrote them where nothing is newer."""
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if (k, v) != ("pixels", None)}


# For colours: of 64 images of CIFAR-10, 35.6 dB, where the usual recipe, for a little less work,
# comes to 32.5.
COLOURS = Recipe(steps=200, learning_rate=7e-3, pixels=512)


class Fitter:
    """Fits INRs to images of one size, at most `capacity` in a call."""

    def __init__(
        self,
        spec: PointSpec,
        recipe: Recipe,
        seed: int,
        image_shape: tuple[int, ...],
        *,
        devices: Sequence[jax.Device] | None = None,
        block_size: int | None = None,
        blocks: int = 16,
        peak: float = 1.0,
    ):
        """Args:
        spec: of the networks; its `out_dim` is the images' channel count.
        image_shape: height, width, channels; or other sides of the grid, or how many points.
        devices: that share the work; all of this process if None.
        block_size: networks that are fitted side by side. On a CPU eight fill the vector units and
          still fit the cache; a GPU or TPU takes hundreds.
        blocks: that a device works through in a call.
        peak: largest less smallest value there can be, for PSNRs.
        """
        self.spec, self.recipe = spec, recipe
        self._key = jax.random.key(seed)
        self._mesh = Mesh(np.asarray(devices or jax.local_devices()), ("device",))
        platform = self._mesh.devices.flat[0].platform
        self._block_size = block_size or default_block_size(spec, recipe, image_shape, platform)
        self._shape, self._blocks, self._peak = image_shape, blocks, peak
        self.capacity = self._mesh.size * self._block_size * blocks

    def __call__(
        self,
        images: Float[np.ndarray, "N *grid C"],
        indices: Int[np.ndarray, " N"],
        attempt: int = 0,
        points: Float[np.ndarray, "N M D"] | None = None,
    ) -> tuple[Float[np.ndarray, "N V"], Float[np.ndarray, " N"]]:
        """One network for each image.

        Args:
          images: values as the networks shall draw them, [0, 1] for the published zoos.
          indices: a network's start follows from the seed, its index and the attempt alone, and so
            do its weights; not from the other networks.
          attempt: another number is another start.
          points: where the values of each are; None if they are on a grid.

        Returns:
          Each network's weights as a vector, for `flat_weights.unflatten`, and its PSNR in dB, at
          the pixels of the image as it was given.
        """
        key = jax.random.fold_in(self._key, attempt) if attempt else self._key
        parts = [
            slice(first, first + self.capacity) for first in range(0, len(images), self.capacity)
        ]
        done = [
            self._call(images[p], None if points is None else points[p], indices[p], key)
            for p in parts
        ]
        vectors, mse = (np.concatenate(arrays) for arrays in zip(*done, strict=True))
        error = np.maximum(mse, np.finfo(np.float32).tiny)
        return vectors, -10 * np.log10(error / np.float32(self._peak**2))

    def _call(
        self, images: np.ndarray, points: np.ndarray | None, indices: np.ndarray, key: jax.Array
    ) -> tuple:
        number, devices, block = len(images), self._mesh.size, self._block_size
        # Networks are dealt out block by block, so that devices have equally many; a block that is
        # not full repeats the last network, and blocks after it are not worked through.
        dealt = np.arange(self.capacity).reshape(self._blocks, devices, block)
        dealt = dealt.transpose(1, 0, 2).ravel()
        of_slot = np.minimum(dealt, number - 1)
        vectors, mse = _fit(
            self.spec,
            self.recipe,
            self._shape,
            self._mesh,
            block,
            self._peak,
            jnp.asarray(images.reshape(number, -1, images.shape[-1])[of_slot]),
            None if points is None else jnp.asarray(points[of_slot]),
            key,
            jnp.asarray(indices[of_slot], jnp.int32),
            jnp.int32(-(-number // (devices * block))),
        )
        slot_of = np.argsort(dealt)[:number]
        return np.asarray(vectors)[slot_of], np.asarray(mse)[slot_of]


def default_block_size(
    spec: PointSpec, recipe: Recipe, image_shape: tuple[int, ...], platform: str
) -> int:
    """Networks to fit side by side on a device: a "cpu", "gpu" or "tpu"."""
    if platform == "cpu":
        return 8
    values = math.prod(image_shape[:-1]) * recipe.upsample**2 * sum(spec.hidden)
    return max(8, min(_ACCELERATOR_BLOCK, _ACCELERATOR_BLOCK * 28 * 28 * 64 // values))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _fit(
    spec: PointSpec,
    recipe: Recipe,
    image_shape: tuple[int, ...],
    mesh: Mesh,
    block_size: int,
    peak: float,
    pixels_NxHWxC: Float[Array, "N HW C"],
    points_NxHWxD: Float[Array, "N HW D"] | None,
    key: Key[Array, ""],
    indices_N: Int[Array, " N"],
    blocks: Int[Array, ""],
) -> tuple[Float[Array, "N V"], Float[Array, " N"]]:
    split, whole = PartitionSpec("device"), PartitionSpec()

    def of_device(pixels_BxHWxC, points_BxHWxD, key, indices_B, blocks):
        def one(block, carry):
            start = block * block_size
            parts = jax.tree.map(
                lambda array: jax.lax.dynamic_slice_in_dim(array, start, block_size),
                (pixels_BxHWxC, points_BxHWxD, indices_B),
            )
            fit = functools.partial(_fit_one, spec, recipe, image_shape, peak, key)
            fitted = jax.vmap(fit)(*parts)
            return tuple(
                jax.lax.dynamic_update_slice_in_dim(array, part, start, 0)
                for array, part in zip(carry, fitted, strict=True)
            )

        carry = jnp.zeros((len(indices_B), spec.num_weights)), jnp.zeros(len(indices_B))
        return jax.lax.fori_loop(0, blocks, one, carry)

    specs = {"in_specs": (split, split, whole, split, whole), "out_specs": (split, split)}
    fit_all = jax.shard_map(of_device, mesh=mesh, **specs, check_vma=False)
    return fit_all(pixels_NxHWxC, points_NxHWxD, key, indices_N, blocks)


def _fit_one(
    spec: PointSpec,
    recipe: Recipe,
    image_shape: tuple[int, ...],
    peak: float,
    key: Key[Array, ""],
    pixels_HWxC: Float[Array, "HW C"],
    points_HWxD: Float[Array, "HW D"] | None,
    index: Int[Array, ""],
) -> tuple[Float[Array, " V"], Float[Array, ""]]:
    *size, channels = image_shape
    enlarged = [side * recipe.upsample for side in size]
    targets = pixels_HWxC
    if recipe.upsample > 1:
        image = pixels_HWxC.reshape(image_shape)
        image = jax.image.resize(image, (*enlarged, channels), "bilinear")
        targets = image.reshape(-1, channels)
    rate = recipe.learning_rate
    rate = optax.cosine_decay_schedule(rate, recipe.steps) if recipe.cosine else rate
    optimizer = optax.adam(rate)

    def coordinates(size):
        on_grid = points_HWxD is None
        return jnp.asarray(spec.pixel_coordinates(*size)) if on_grid else points_HWxD

    def mse(weights, coordinates, targets):
        return jnp.mean(jnp.square(spec.apply(weights, coordinates) - targets))

    own_key = jax.random.fold_in(key, index)
    of_step = _parts(own_key, recipe.pixels, coordinates(enlarged), targets)

    def step(t, weights, state):
        error, grads = jax.value_and_grad(mse)(weights, *of_step(t))
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies its integer step count
            updates, state = optimizer.update(grads, state)
        return error, optax.apply_updates(weights, updates), state

    weights = spec.start(own_key, recipe.start)
    state = optimizer.init(weights)
    if recipe.stop_psnr is None:
        start = weights, state
        weights, _ = jax.lax.fori_loop(0, recipe.steps, lambda t, c: step(t, *c)[1:], start)
    else:
        enough = peak**2 * 10 ** (-recipe.stop_psnr / 10)

        def unfinished(carry):
            t, _, _, error = carry
            return (t < recipe.steps) & (error > enough)

        def checked_step(carry):
            t, weights, state, _ = carry
            error, moved, state = step(t, weights, state)
            keep = error <= enough  # these weights are good enough: the step is not taken
            weights = jax.tree.map(lambda a, b: jnp.where(keep, a, b), weights, moved)
            return t + 1, weights, state, error

        carry = (jnp.int32(0), weights, state, jnp.float32(jnp.inf))
        _, weights, _, _ = jax.lax.while_loop(unfinished, checked_step, carry)
    return ravel_pytree(weights)[0], mse(weights, coordinates(size), pixels_HWxC)


def _parts(
    key: Key[Array, ""], pixels: int | None, *arrays: Float[Array, "M _"]
) -> Callable[[Any], tuple[Array, ...]]:
    """What step t looks at of arrays with the same rows: all, or `pixels` of them."""
    number = len(arrays[0])
    if pixels is None or pixels >= number:
        return lambda t: arrays
    order = jax.random.permutation(jax.random.fold_in(key, 1), number)
    mixed = [array[order] for array in arrays]
    parts = -(-number // pixels)

    def of_step(t):  # the last part is moved back, so that all are of one size
        first = t % parts * pixels
        return tuple(jax.lax.dynamic_slice_in_dim(array, first, pixels) for array in mixed)

    return of_step
