"""What a family of networks must define: a static spec for a pytree of weights, never Flax modules.

The weights of a zoo are the pytree of one network with a leading network axis on every leaf. The
rest of the package uses only those parts of a spec that `NetworkSpec` names here.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks.drawable import Drawable
from probegen_jax.networks.options import Options, ReadOptions
from probegen_jax.networks.pixels import Pixels
from probegen_jax.networks.shared_rows import Counts, SharedRows
from probegen_jax.networks.statistics import ReadableWeights
from probegen_jax.typed_json import typed


class NetworkSpec(ReadableWeights, Drawable, abc.ABC):
    """What the networks of a zoo have in common, and all that can be asked of them.

    A family is a frozen dataclass derived from this class. It needs `probe_shape`, `response_dim`
    (as fields or properties) and `apply`; everything else has a default.

    Attributes:
      probe_shape: shape of one probe: (D,) for coordinates, (H, W, C) for images.
      response_dim: values that one network answers one probe with, R.
      num_weights: weights of one network, where all have the same number.
      vmap_seeds: whether several seeds run as one more `vmap` axis, or one after another.
      needs_config: whether the file of one network must state its architecture beside its arrays.
      config_beside: whether `read` also looks at the JSON that lies beside a file, if any:
        config.json, or one of the file's name that lists layers, which may be in the file, too.
      pixels: of networks that read images: how these were normalised; None where that is unknown.
      tap_sizes: of each hidden layer, the values of one probe that `apply_with_taps` gives; empty
        where the family gives none.
      has_maps: whether what networks compute on the way are maps; see `maps.WithMaps`.
    """

    probe_shape: tuple[int, ...]
    response_dim: int
    num_weights: int | None = None
    vmap_seeds: ClassVar[bool] = True
    needs_config: ClassVar[bool] = False
    config_beside: ClassVar[bool] = False
    pixels: Pixels | None = None
    tap_sizes: tuple[int, ...] = ()
    has_maps: ClassVar[bool] = False

    # Running networks.

    @abc.abstractmethod
    def apply(self, weights: Any, probes: Float[Array, "P ..."]) -> Float[Array, "P R"]:
        """One network on every probe; differentiable in the probes."""

    def respond(self, weights: Any, probes: Float[Array, "P ..."]) -> Float[Array, "B P R"]:
        """Every network of a batch on every probe: the hot path.

        Args:
          weights: stacked, with a leading network axis B.
          probes: shared by all networks, so that the first layer becomes one wide matmul.
        """
        return jax.vmap(self.apply, in_axes=(0, None))(weights, probes)

    def apply_with_taps(
        self, weights: Any, probes: Float[Array, "P ..."]
    ) -> tuple[Float[Array, "P H"], ...]:
        """One network on every probe: what it computes in each hidden layer, then its answer."""
        raise NotImplementedError(f"{type(self).__name__} has no taps; see `tap_sizes`")

    def respond_with_taps(
        self, weights: Any, probes: Float[Array, "P ..."]
    ) -> tuple[Float[Array, "B P H"], ...]:
        """`apply_with_taps` of every network of a batch."""
        return jax.vmap(self.apply_with_taps, in_axes=(0, None))(weights, probes)

    def moved(
        self, weights: Any, matrix_DxD: Float[Array, "D D"], shift_D: Float[Array, " D"]
    ) -> Any:
        """The network that answers at x what this one, on points, answers at Ax + s.

        Raises:
          UserError: such a network does not come of other weights.
        """
        self.cannot_move()

    def cannot_move(self) -> NoReturn:
        """Raises the `UserError` of `moved`."""
        raise UserError(
            f"augment_… is set, but what networks like {type(self).__name__} draw cannot be moved "
            "so; leave it out (rotation and flip are for images, shift and scale for SIRENs and "
            "for fields without an encoding)"
        )

    def with_options(self, options: Options, weights: Any = None) -> "NetworkSpec":
        """This spec, run in another way; a `UserError` for an option that it does not have.

        The zoo's `weights` are on the host; None where they are stored elsewhere.
        """
        if options.compute_dtype != "float32":
            raise UserError(
                f"compute_dtype is {options.compute_dtype!r}, which is for zoos of mixed CNNs "
                "only; leave it out"
            )
        spec = self.on_platform(options.platform)
        return spec if options.block_size is None else spec.with_block_size(options.block_size)

    def on_platform(self, platform: str) -> "NetworkSpec":
        """This spec for devices of `Options.platform`; itself where all are the same to it."""
        return dataclasses.replace(self, platform=platform) if hasattr(self, "platform") else self

    def with_block_size(self, block_size: int | None) -> "NetworkSpec":
        """This spec with that `Options.block_size`; a `UserError` where all run at once anyway."""
        if hasattr(self, "block_size"):
            return dataclasses.replace(self, block_size=block_size)
        if block_size is None:
            return self
        raise UserError(
            f"block_size is {block_size}, but networks like {type(self).__name__} always run all "
            "at once; leave it out"
        )

    def block_sizes(self, batch: int) -> Sequence[int | None]:
        """Values of `block_size` worth timing for `batch` networks; empty if the best is known."""
        return ()

    def with_probe_shape(self, shape: tuple[int, ...]) -> "NetworkSpec":
        """The same networks on probes of another shape; a `UserError` if they cannot read them."""
        raise UserError(
            f"networks like {type(self).__name__} read probes of shape {self.probe_shape}, and "
            f"none of shape {shape}"
        )

    # Many networks.

    def abstract(self) -> Any:
        """One network's weights as `jax.ShapeDtypeStruct`s; None where the spec does not know."""
        return None

    def take(self, weights: Any, rows: Any) -> Any:
        """The networks at `rows` of stacked weights, on the host or on a device."""
        return jax.tree.map(lambda leaf: leaf[rows], weights)

    def count(self, weights: Any) -> int:
        """How many networks stacked weights hold; a `UserError` where their leaves disagree."""
        shapes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(weights)}
        if len(shapes) != 1 or () in shapes:
            raise UserError(
                "stacked weights need the same number of networks along the first axis of every "
                f"array; found {sorted(shapes)}"
            )
        return int(shapes.pop()[0])

    def costs(self, weights: Any) -> Int[np.ndarray, " N"] | None:
        """The work of probing each network; None if it is the same for all."""
        return None

    def shared_rows(self, weights: Any) -> SharedRows | None:
        """What networks take of arrays that they share; None where all are stacked by network."""
        return None

    def shard(
        self,
        weights: Any,
        rows: Sequence[Int[np.ndarray, " n"]],
        lengths: Callable[[Counts], Counts] = lambda counts: counts,
    ) -> list[Any]:
        """The networks of each device, in arrays of the same shapes for all devices.

        Args:
          rows: for each device, equally many rows of the zoo.
          lengths: of shared arrays, from the most rows that any device here needs of each: where
            there are other hosts or batches with the same shapes, what these need, too.
        """
        return [jax.tree.map(np.asarray, self.take(weights, rows_n)) for rows_n in rows]

    # Single networks, from files or memory.

    @classmethod
    def from_files(
        cls,
        config: Mapping[str, Any] | None,
        state: Mapping[str, np.ndarray],
        name: str,
        given: Mapping[str, Any],
    ) -> "NetworkSpec | None":
        """The spec of networks like one in a file; None where a family is not told by files.

        Args:
          config: of the config.json beside the file, if there is one.
          state: its arrays by name.
          given: what the user says of the networks, where it is not None: it counts more.

        Raises:
          UnknownNamesError: a network of another family; what this one would need.
          BadNetworkError: one of this family that cannot be read, or of which more must be said.
        """
        return None

    def expected(self, options: ReadOptions) -> str:
        """What a single network must be for `read`, in a few words."""
        self._reads_no_files()

    def file_shapes(
        self, config: Mapping[str, Any] | None, name: str, options: ReadOptions
    ) -> Mapping[str, tuple[int, ...]] | None:
        """Names and shapes of all arrays of a network, in torch's layout; see `read`.

        By the first of them, a weight, the network is found in a file that holds more, and under
        longer names. None leaves names as they are.
        """
        return None

    def read(
        self,
        state: Mapping[str, np.ndarray],
        config: Mapping[str, Any] | None,
        name: str,
        options: ReadOptions,
    ) -> Any:
        """One network, as `stack` takes it.

        Args:
          state: arrays by name, in torch's layout.
          config: the architecture, where `needs_config`; what lies beside, where `config_beside`.

        Raises:
          BadNetworkError: it is not such a network, or cannot be used.
          UserError: networks of this family are not read from files.
        """
        self._reads_no_files()

    def _reads_no_files(self) -> NoReturn:
        raise UserError(
            f"cannot read files of networks like {type(self).__name__}; give their stacked weights"
        )

    def stack(self, networks: Sequence[Any]) -> tuple["NetworkSpec", Any]:
        """Networks as `read` gives them, as a spec that runs them and stacked weights."""
        return self, jax.tree.map(lambda *leaves: np.stack(leaves), *networks)

    def is_stacked(self, networks: Any) -> bool:
        """Whether `networks` are stacked weights, and not single networks as dicts of arrays."""
        return True

    # What people see.

    def census(self, known: Any) -> Mapping[str, Mapping[str, int]]:
        """In what networks of the zoo differ, and how many are of each kind, by name.

        Args:
          known: what is in memory of all networks' weights.
        """
        return {}

    def to_json(self) -> dict[str, Any]:
        """This spec as plain values, for `from_json`; without the platform that it runs on.

        Nor are `pixels` among them: who has a predictor has its probes.
        """
        left_out = ("platform", "pixels")
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in left_out}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "NetworkSpec":
        """The inverse of `to_json`; a `UserError` where a value is missing or cannot be."""
        return typed(cls, values, "network")


def usual_block_sizes(batch: int) -> Sequence[int | None]:
    """See `NetworkSpec.block_sizes`: the family's own choice, and a few numbers."""
    return (None, *(size for size in (1, 4, 16) if size < batch))


def check_at_least_one(**values: int | None) -> None:
    """Raises a `UserError` that names the first value below 1."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; it must be at least 1")


def check_finite(network: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises a `BadNetworkError` that names the first array with a NaN or an infinity."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise BadNetworkError(network, f"{name} holds NaN or infinite weights")
