"""What networks on points share: implicit neural representations of images, sounds and shapes."""

import abc
import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks.contract import (
    NetworkSpec,
    check_at_least_one,
    check_finite,
    usual_block_sizes,
)
from probegen_jax.networks.options import ReadOptions

# How common code calls layers, and the last one where it differs.
_LAYOUTS = (
    ("seq.{}", None),
    ("net.{}.linear", "net.{}"),
    ("net.{}.freqs", "net.{}"),
    ("net.{}", "last_layer"),
    ("net.{}", None),
    ("net.{}.0", None),
    ("layers.{}", None),
    ("linears.{}", None),
)


Layer = Mapping[str, Any]  # {"kernel": (in, out), "bias": (out,)}, maybe stacked
_TINY = 1e-12


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
        return usual_block_sizes(batch)

    # Single networks, from files.

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """What such a network is called, with its article."""

    def expected(self, options: ReadOptions) -> str:
        depth = len(self.sizes) - 1
        first, last = options.layer_name(0, depth), options.layer_name(depth - 1, depth)
        return (
            f"{self.kind} {'→'.join(map(str, self.sizes))} in float32, with arrays {first}.weight "
            f"to {last}.bias"
        )

    def file_shapes(
        self, config: Mapping[str, Any] | None, name: str, options: ReadOptions
    ) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for index, (m, n) in enumerate(itertools.pairwise(self.sizes)):
            layer = options.layer_name(index, len(self.sizes) - 1)
            shapes |= {f"{layer}.weight": (n, m), f"{layer}.bias": (n,)}
        return shapes

    def read(
        self,
        state: Mapping[str, np.ndarray],
        config: Mapping[str, Any] | None,
        name: str,
        options: ReadOptions,
    ) -> Any:
        """See `NetworkSpec`; weights in `state` are (out, in)."""
        fix = "set {} to the zoo's, or use --config.skip_bad=True"
        shapes = self.file_shapes(config, name, options)
        for key, shape in shapes.items():
            array = state.get(key)
            if array is None:
                tried, fitting = _layouts_told(state, options)
                fault = f"has no {key} (it has {', '.join(sorted(state)) or 'nothing'}{tried})"
                what = f"key names, width and depth{fitting}"
                raise BadNetworkError(name, fault, fix.format(what))
            if array.shape != shape:
                fault = f"{key} has shape {array.shape}, expected {shape}"
                raise BadNetworkError(name, fault, fix.format("width and depth"))
            if array.dtype != np.float32:
                raise BadNetworkError(name, f"{key} is {array.dtype}, not float32")
        if rest := state.keys() - shapes.keys():
            fault = f"has {min(rest)}, which a network of {len(self.sizes) - 1} layers has not"
            raise BadNetworkError(name, fault, fix.format("the key names and depth"))
        check_finite(name, state)
        return self._from_state(state, options)

    @abc.abstractmethod
    def _from_state(self, state: Mapping[str, np.ndarray], options: ReadOptions) -> Any:
        """One network from arrays that are as `file_shapes` says."""

    def _layers(
        self, state: Mapping[str, np.ndarray], options: ReadOptions
    ) -> tuple[dict[str, np.ndarray], ...]:
        depth = len(self.sizes) - 1
        names = [options.layer_name(index, depth) for index in range(depth)]
        return tuple(
            {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]} for name in names
        )

    @property
    def plane(self) -> Literal["xy", "ij"] | None:
        return self.grid if self.in_dim == 2 else None

    def render(self, weights: Any, *sides: int) -> Float[np.ndarray, "N *grid C"] | None:
        if len(sides) != self.in_dim:
            return None
        (drawn,) = self.draws(weights, [sides])
        if self.in_dim == 1:
            return drawn
        if self.output_shift == 0:  # such networks were fitted to targets in [-1, 1]
            drawn = (drawn + 1) / 2
        return np.clip(drawn, 0, 1)

    def draws(
        self, weights: Any, sizes: Sequence[tuple[int, ...]]
    ) -> list[Float[np.ndarray, "N *grid C"]]:
        weights = jax.tree.map(jnp.asarray, weights)
        grids = [self.pixel_coordinates(*sides) for sides in sizes]
        drawn = np.asarray(_draw(self, weights, np.concatenate(grids)))
        parts = np.split(drawn, np.cumsum([len(grid) for grid in grids])[:-1], axis=1)
        return [
            part.reshape(len(part), *sides, -1) for part, sides in zip(parts, sizes, strict=True)
        ]

    def pixel_coordinates(self, *sides: int) -> Float[np.ndarray, "cells D"]:
        """Coordinates of the cells of a grid, row by row, in this spec's order.

        Of an image, height and width; of a volume, coordinates are in the order of its axes.
        """
        axes = [np.linspace(-1, 1, side, dtype=np.float32) for side in sides]
        at = np.meshgrid(*axes, indexing="ij")
        order = reversed(at) if self.plane == "xy" else at
        return np.stack([axis.ravel() for axis in order], axis=-1)


def moved_layer(
    layer: Mapping[str, Array], matrix_DxD: Float[Array, "D D"], shift_D: Float[Array, " D"]
) -> dict[str, Array]:
    """A first layer that computes of x what `layer` computes of Ax + s, on a kernel (D, out)."""
    moved = {}
    for name in (each for each in layer if each.endswith("kernel")):

        def along(point_D: Array, kernel: Array = layer[name]) -> Array:
            return jnp.sum(point_D[:, None] * kernel, axis=0)  # no matmul: some round

        bias = name.replace("kernel", "bias")
        moved |= {name: jax.vmap(along)(matrix_DxD.T), bias: layer[bias] + along(shift_D)}
    return moved


def with_factors(layers: Sequence[Layer], factors: Sequence[float]) -> tuple[Layer, ...]:
    """Layers whose arguments of the activation are so many times as large; the last stays."""
    *hidden, last = layers
    scaled = (
        {name: leaf * np.float32(factor) for name, leaf in layer.items()}
        for layer, factor in zip(hidden, factors, strict=True)
    )
    return (*scaled, last)


def gain_of(layers: Sequence[Layer], w0s: Sequence[float]) -> float | None:
    """See `Drawable.phase_gain`, of layers behind sines; None of a single hidden layer."""
    gains = [
        w0 * np.sqrt(np.square(kernel).mean() * kernel.shape[-2] / 2)
        for w0, kernel in zip(w0s[1:], (layer["kernel"] for layer in layers[1:-1]), strict=True)
    ]
    return float(np.exp(np.log(np.maximum(gains, _TINY)).mean())) if gains else None


def _layouts_told(state: Mapping[str, Any], options: ReadOptions) -> tuple[str, str]:
    """Which names of layers were looked for, if all in vain; and which others would be found."""
    given = options.layer_key, options.last_layer_key
    if _fits(state, *given):
        return "", ""
    fitting = [
        f"--config.layer_key={layer}" + (f" --config.last_layer_key={last}" if last else "")
        for layer, last in _LAYOUTS
        if _fits(state, layer, last)
    ]
    if fitting:
        return "", f" (its names fit {' or '.join(fitting)})"
    tried = dict.fromkeys(layer for layer, _ in (given, *_LAYOUTS))
    return f"; tried were {', '.join(tried)}", ""


def _fits(state: Mapping[str, Any], layer_key: str, last_layer_key: str | None) -> bool:
    """Whether arrays are called so: a first layer, and a last one where that differs."""
    before, _, after = layer_key.partition("{}")
    layer = re.compile(rf"(?:.*\.)?{re.escape(before)}\d+{re.escape(after)}\.weight")
    found = sum(bool(layer.fullmatch(name)) for name in state)
    if last_layer_key is None:
        return found > 1
    last = re.escape(last_layer_key).replace(r"\{\}", r"\d+")
    ends = [name for name in state if re.fullmatch(rf"(?:.*\.)?{last}\.weight", name)]
    return found > 0 and len(ends) == 1


@functools.partial(jax.jit, static_argnames="spec")
def _draw(spec: PointSpec, weights: Any, coordinates: Any) -> jax.Array:
    return jax.vmap(spec.apply, in_axes=(0, None))(weights, coordinates)
