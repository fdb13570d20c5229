"""Probes that are images: deep linear generators, free pixels, and dead leaves."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from probegen_jax.errors import UserError
from probegen_jax.method import dead_leaves
from probegen_jax.method.generators.base import Fixed, Generator
from probegen_jax.method.generators.coordinates import Vanilla
from probegen_jax.method.layers import ConvTranspose, dense, through
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.pixels import Pixels
from probegen_jax.user_cache import data_folder


class DeepLinearImage(Generator):
    """ProbeGen for images: free latents through transposed convolutions, no activation between.

    (P, 1, 1, latent) → k4 s1 p0 → 4×4 pixels → k4 s2 p1, doubling the size each time → k3 s1 p1
    → C channels → tanh (Kahana et al. 2025, section 4). Channels are 8w after the first layer and
    halve with each doubling, down to w. At 32×32 with depth 5 this is the official
    `deep_linear_5`; depth 6 inserts one k3 s1 p1 layer before the last doubling, the official
    `deep_linear_6`.

    The same family serves other sizes, s·2ⁿ with s from 4 to 7: the first layer then makes s×s
    pixels, n doublings follow, and the least depth is n + 2 (3 for 8×8: 32→8w, 8w→4w, 4w→C).
    Depth beyond it is k3 s1 p1 layers before the last doubling.

    For comparison: an activation between the layers, or `layers` that are "dense": as many as
    `depth`, all `latent_dim` wide but the last, which makes the pixels, for images of any size.
    """

    def __init__(
        self,
        num_probes: int,
        probe_shape: tuple[int, ...],
        *,
        latent_dim: int = 32,
        width: int = 16,
        depth: int | None = None,
        layers: str = "convolutional",
        activation: str = "none",
        rngs: nnx.Rngs,
    ):
        """Args:
        latent_dim: values of a latent (32 in the paper).
        width: w, channels before the last layer at 32×32 (16 in the paper).
        depth: transposed convolutions; by default as few as the size needs (5 at 32×32).
        layers: "convolutional" or "dense".
        activation: between the layers, a name in `ACTIVATIONS` ("none" in the paper).

        Raises:
          UserError: a size outside the family, or a depth too small for the size.
        """
        self.probe_shape, self.activation, self.dense = probe_shape, activation, layers == "dense"
        self.latents = nnx.Param(jax.random.normal(rngs.params(), (num_probes, 1, 1, latent_dim)))
        if self.dense:
            widths = [latent_dim] * (depth or 2) + [math.prod(probe_shape)]
            made = [dense(m, n, rngs=rngs) for m, n in itertools.pairwise(widths)]
        else:
            made = self._convolutions(probe_shape, latent_dim, width, depth, rngs)
        self.layers = nnx.List(made)

    @staticmethod
    def _convolutions(
        probe_shape: tuple[int, ...],
        latent_dim: int,
        width: int,
        depth: int | None,
        rngs: nnx.Rngs,
    ) -> list[ConvTranspose]:
        start, doublings = _start_and_doublings(probe_shape)
        least = doublings + 2
        depth = least if depth is None else depth
        if depth < least or (doublings == 0 and depth > least):
            raise UserError(
                f"a deep linear generator of {probe_shape[0]}×{probe_shape[1]} images needs "
                f"{'exactly' if doublings == 0 else 'at least'} {least} layers, got {depth}"
            )
        widths = [max(8 * width >> doubling, width) for doubling in range(doublings + 1)]
        layers = [ConvTranspose(latent_dim, widths[0], start, rngs=rngs)]
        for doubling in range(doublings):
            m, n = widths[doubling : doubling + 2]
            if doubling == doublings - 1:
                layers += [ConvTranspose(m, m, 3, 1, 1, rngs=rngs) for _ in range(depth - least)]
            layers.append(ConvTranspose(m, n, 4, 2, 1, rngs=rngs))
        return [*layers, ConvTranspose(widths[-1], probe_shape[2], 3, 1, 1, rngs=rngs)]

    def __call__(self) -> Float[Array, "P H W C"]:
        latents_PxD = self.latents[...].reshape(self.latents.shape[0], -1)
        number, dim = latents_PxD.shape
        if self.dense:
            probes_PxV = through(self.layers, self.activation, latents_PxD)
            return jnp.tanh(probes_PxV.reshape(number, *self.probe_shape))
        if number <= dim + 1 or self.activation != "none":
            return jnp.tanh(self._run(self.latents[...], jnp.ones((number,))))
        # Before the tanh the generator is affine: what it makes of the latents' unit vectors, with
        # biases left out, and of nothing but its biases, tells all it makes. So its cost does not
        # grow with the number of probes.
        basis = jnp.eye(dim + 1, dim).reshape(dim + 1, 1, 1, dim)
        made = self._run(basis, (jnp.arange(dim + 1) == dim).astype(jnp.float32))
        linear_DxV, constant_V = made[:dim].reshape(dim, -1), made[dim].reshape(-1)
        # Without the barrier, XLA (jax 0.10) finds no way to run this matmul on a GPU.
        linear_DxV = jax.lax.optimization_barrier(linear_DxV)
        probes_PxV = latents_PxD @ linear_DxV + constant_V[None]
        return jnp.tanh(probes_PxV.reshape(number, *made.shape[1:]))

    def _run(self, x: Float[Array, "P 1 1 D"], bias_scale_P: Float[Array, " P"]) -> jax.Array:
        return through(self.layers, self.activation, x, bias_scale_P, self.platform)


class VanillaImage(Vanilla):
    """Vanilla probing with images: tanh of free pixels, which are N(0, 1) at the start."""

    def __call__(self) -> Float[Array, "P H W C"]:
        return jnp.tanh(self.probes[...])


class DeadLeaves(Generator):
    """Synthetic probes for image networks: images of opaque shapes, never trained."""

    @classmethod
    def needed_images(
        cls, settings: Mapping[str, Any], spec: NetworkSpec
    ) -> Float[np.ndarray, "N h w C"]:
        # Twice as many as probes, so that seeds differ in what they take.
        return dead_leaves.probe_bank(
            settings["dead_leaves"],
            2 * settings["num_probes"],
            spec.probe_shape,
            settings["seed"],
            pixels=_pixels(spec, "dead leaves"),
            fidelity=settings.get("fidelity", "faithful"),
            folder=data_folder(settings["data_dir"]),
        )

    def __init__(
        self,
        num_probes: int,
        probe_shape: tuple[int, ...],
        *,
        images: Float[np.ndarray, "N H W C"],
        rngs: nnx.Rngs,
    ):
        """Takes P different images, on the networks' scale; a `UserError` if there are fewer."""
        if len(images) < num_probes:
            raise UserError(
                f"{num_probes} probes, but only {len(images)} images to take them from; give more "
                "images or set num_probes lower"
            )
        del probe_shape  # that of the images
        chosen = jax.random.choice(rngs.params(), len(images), (num_probes,), replace=False)
        self.probes = Fixed(jnp.asarray(images)[chosen])

    def __call__(self) -> Float[Array, "P H W C"]:
        return self.probes[...]


class Images(DeadLeaves):
    """Real images as probes, never trained."""

    @classmethod
    def needed_images(
        cls, settings: Mapping[str, Any], spec: NetworkSpec
    ) -> Float[np.ndarray, "N h w C"]:
        from probegen_jax.factory.images import sources  # only this method needs it

        pixels = _pixels(spec, "images")
        images = sources.some(
            settings["probe_images"],
            2 * settings["num_probes"],  # see above
            spec.probe_shape,
            settings["seed"],
            data_folder(settings["data_dir"]),
        )
        return pixels.normalise(images)


def _pixels(spec: NetworkSpec, probes: str) -> Pixels:
    """How the networks' images were normalised."""
    if spec.pixels is None:
        raise UserError(
            f"{probes} are shown as the networks' images were, but nothing says how these "
            "were normalised; give mean and std (configs/own_cnn.py), or the spec its pixels"
        )
    return spec.pixels


def _start_and_doublings(probe_shape: tuple[int, ...]) -> tuple[int, int]:
    """Finds s and n with height = width = s·2ⁿ, 4 ≤ s ≤ 7."""
    height, width, _ = probe_shape
    start, doublings = height, 0
    while start > 7 and start % 2 == 0:
        start, doublings = start // 2, doublings + 1
    if height != width or not 4 <= start <= 7:
        raise UserError(
            f"a deep linear generator cannot make {height}×{width} images; they must be square, "
            "with a side of 4, 5, 6 or 7 times a power of two: 8, 16, 28, 32, 64, …"
        )
    return start, doublings
