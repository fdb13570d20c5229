"""Augmentation of networks on points: in training, each is moved a little, at random.

Moving what a network draws takes no new network: f(Ax + s) is f with another first layer. So the
images of a whole zoo are shifted, turned, scaled and mirrored at the cost of a few sums.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from probegen_jax.method.dropout import Key as KeyData
from probegen_jax.method.dropout import Noise
from probegen_jax.networks.contract import NetworkSpec


@dataclasses.dataclass(frozen=True)
class Reach:
    """How far networks are moved at most, by the names of a config's keys after "augment_".

    Attributes:
      shift: along each axis; an image reaches from -1 to 1.
      rotation: in degrees.
      scale: share by which an image grows or shrinks.
      flip: whether every other image is mirrored, left to right.
    """

    shift: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    flip: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Reach":
        """That of a config as a dict; keys that an earlier version did not have may be missing."""
        names = [field.name for field in dataclasses.fields(cls)]
        given = {name: settings.get(f"augment_{name}") for name in names}
        return cls(**{name: value for name, value in given.items() if value is not None})

    def __bool__(self) -> bool:
        return self != Reach()


def moved(reach: Reach, spec: NetworkSpec, weights: Any, number: int) -> Any:
    """Stacked networks, each moved as in training by what the number of a move draws for it."""
    moves = Moves(reach, spec, rngs=nnx.Rngs(params=0))
    return moves(weights, Noise(jnp.int32(number), jnp.int32(0)))


class Moves(nnx.Module):
    """Moves the networks of a training step; every move follows from seed, step and place."""

    def __init__(self, reach: Reach, spec: NetworkSpec, *, rngs: nnx.Rngs):
        """Args:
        reach: not empty.

        Raises:
          UserError: such networks cannot be moved.
        """
        if spec.plane is None and (reach.rotation or reach.flip):
            spec.cannot_move()
        dims = spec.probe_shape[0]
        # Not to compute anything, but to be refused now.
        jax.eval_shape(spec.moved, spec.abstract(), jnp.eye(dims), jnp.zeros(dims))
        self.reach, self.spec = reach, spec
        self.key_data = KeyData(jax.random.key_data(rngs.params()))

    def __call__(self, weights: Any, noise: Noise) -> Any:
        """The networks of a batch, each moved by itself."""
        key = jax.random.fold_in(jax.random.wrap_key_data(self.key_data[...]), noise.step)
        places_B = noise.first + jnp.arange(self.spec.count(weights), dtype=jnp.int32)
        keys_B = jax.vmap(lambda place: jax.random.fold_in(key, place))(places_B)
        return jax.vmap(self.spec.moved)(weights, *jax.vmap(self._drawn)(keys_B))

    def _drawn(self, key: Key[Array, ""]) -> tuple[Float[Array, "D D"], Float[Array, " D"]]:
        """Where points of a network are moved to: x to Ax + s."""
        dims = self.spec.probe_shape[0]
        shift_key, angle_key, scale_key, flip_key = jax.random.split(key, 4)
        shift = jax.random.uniform(shift_key, (dims,), minval=-1) * self.reach.shift
        size = 1 + jax.random.uniform(scale_key, minval=-1) * self.reach.scale
        matrix = jnp.eye(dims) * size
        if self.reach.rotation:
            angle = jax.random.uniform(angle_key, minval=-1) * jnp.deg2rad(self.reach.rotation)
            cos, sin = jnp.cos(angle), jnp.sin(angle)
            matrix = matrix @ jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
        if self.reach.flip:
            across = {"xy": 0, "ij": 1}[self.spec.plane]
            sign = jnp.where(jax.random.bernoulli(flip_key), -1.0, 1.0)
            matrix = matrix.at[across].multiply(sign)
        return matrix, shift
