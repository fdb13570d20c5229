"""What networks on points share: implicit neural representations of images, sounds and shapes."""

import abc
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from probegen_jax.errors import UserError
from probegen_jax.networks.contract import NetworkSpec, check_at_least_one


class PointSpec(NetworkSpec):
    """Networks whose probes are points, (D,); on an image, coordinates are in [-1, 1].

    Attributes:
      hidden: widths of the hidden layers.
      sizes: widths from the input to the output.
      in_dim: coordinates of a probe, D.
      out_dim: values of a response, R.
      output_shift: added to the last layer's output.
      grid: of two coordinates: "xy" is x (column) first, "ij" is row first.
      block_size: networks of a batch that run side by side; all, if None.
    """

    hidden: tuple[int, ...]
    sizes: tuple[int, ...]
    in_dim: int
    out_dim: int
    output_shift: float
    grid: Literal["xy", "ij"]
    block_size: int | None

    def _check_sizes(self) -> None:
        if min(self.sizes) < 1 or not self.hidden or (self.num_weights or 0) >= 2**31:
            raise UserError(
                f"the networks' widths are {self.sizes}; each must be at least 1, and there must "
                "be fewer than 2³¹ weights"
            )
        check_at_least_one(block_size=self.block_size)

    @property
    def tap_sizes(self) -> tuple[int, ...]:
        return self.hidden

    @property
    def probe_shape(self) -> tuple[int, ...]:
        return (self.in_dim,)

    @property
    def response_dim(self) -> int:
        return self.out_dim

    @abc.abstractmethod
    def abstract(self) -> Any:
        """See `NetworkSpec`."""

    @abc.abstractmethod
    def init(self, key: Key[Array, ""]) -> Any:
        """One network at its start."""

    def start(self, key: Key[Array, ""], recipe: str) -> Any:
        """One network at the start that a recipe of fitting asks for; here, `init`."""
        return self.init(key)

    def respond(self, weights: Any, probes: Float[Array, "P D"]) -> Float[Array, "B P R"]:
        return self._by_blocks(self.apply, weights, probes)

    def respond_with_taps(
        self, weights: Any, probes: Float[Array, "P D"]
    ) -> tuple[Float[Array, "B P H"], ...]:
        return self._by_blocks(self.apply_with_taps, weights, probes)

    def _by_blocks(self, apply: Callable[..., Any], weights: Any, probes: Array) -> Any:
        if self.block_size is None:
            return jax.vmap(apply, in_axes=(0, None))(weights, probes)
        return jax.lax.map(
            lambda network: apply(network, probes), weights, batch_size=self.block_size
        )

    def block_sizes(self, batch: int) -> Sequence[int | None]:
        return (None, *(size for size in (1, 4, 16) if size < batch))

    @property
    def plane(self) -> Literal["xy", "ij"] | None:
        return self.grid if self.in_dim == 2 else None

    def render(self, weights: Any, height: int, width: int) -> Float[np.ndarray, "N H W R"] | None:
        if self.plane is None:
            return None
        weights = jax.tree.map(jnp.asarray, weights)
        images = np.asarray(_draw(self, weights, self.pixel_coordinates(height, width)))
        if self.output_shift == 0:  # such networks were fitted to targets in [-1, 1]
            images = (images + 1) / 2
        return np.clip(images, 0, 1).reshape(len(images), height, width, -1)

    def pixel_coordinates(self, height: int, width: int) -> Float[np.ndarray, "HW 2"]:
        """Coordinates of the pixels of an image, row by row, in this spec's order."""
        sides = (np.linspace(-1, 1, side, dtype=np.float32) for side in (height, width))
        y, x = np.meshgrid(*sides, indexing="ij")
        first, second = (x, y) if self.grid == "xy" else (y, x)
        return np.stack([first.ravel(), second.ravel()], axis=-1)


@functools.partial(jax.jit, static_argnames="spec")
def _draw(spec: PointSpec, weights: Any, coordinates: Any) -> jax.Array:
    return jax.vmap(spec.apply, in_axes=(0, None))(weights, coordinates)
