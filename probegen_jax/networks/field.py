"""Fields: implicit neural representations of other kinds than SIRENs.

An MLP on points, which may first be encoded: as sines and cosines of their coordinates (Mildenhall
et al., 2020: positional encoding) or of random projections of them (Tancik et al., 2020: Fourier
features). Its activation is a ReLU, GELU, tanh or sine, a Gaussian (Ramasinghe & Lucey, 2022), or
WIRE's real Gabor wavelet (Saragadam et al., 2023).
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from probegen_jax.errors import UserError
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.points import PointSpec, gain_of, moved_layer, with_factors
from probegen_jax.networks.shapes import affine
from probegen_jax.networks.sine import sine

# {"layers": tuple of {"kernel": (in, out), "bias": (out,)}, "projection": (D, F) if Fourier}; a
# Gabor layer also has "scale_kernel" and "scale_bias".
FieldWeights = dict[str, Any]
Activation = Literal["relu", "gelu", "tanh", "sine", "gaussian", "gabor"]
Encoding = Literal["none", "positional", "fourier"]


@dataclasses.dataclass(frozen=True)
class FieldSpec(PointSpec):
    """The static part of a field: everything but its weights.

    Attributes:
      frequencies: of the encoding, F: octaves of each coordinate (positional), or random
        projections (Fourier), which are not trained.
      projection_std: of the projections at the start, in cycles per unit of a coordinate.
      first_octave: of a positional encoding, the factor inside its first sines; NeRF's code has 1
        where the paper has π.
      w0: factor inside a sine or a Gabor wavelet's cosine.
      w0_first: of the first layer, if it is not `w0`.
      width: of a Gaussian, exp(-x²/(2 width²)); of a Gabor wavelet, the factor before its scale.
      block_size: networks of a batch that run side by side; all, if None.
    """

    hidden: tuple[int, ...] = (32, 32)
    in_dim: int = 2
    out_dim: int = 1
    activation: Activation = "relu"
    encoding: Encoding = "none"
    frequencies: int = 0
    projection_std: float = 1.0
    w0: float = 30.0
    width: float = 0.1
    output_shift: float = 0.5
    grid: Literal["xy", "ij"] = "xy"
    block_size: int | None = None
    first_octave: float = math.pi
    w0_first: float | None = None

    kind = "a field"

    def __post_init__(self):
        if (self.encoding == "none") != (self.frequencies == 0) or self.frequencies < 0:
            raise UserError(
                f"encoding is {self.encoding!r} with {self.frequencies} frequencies; give at least "
                "1 to an encoding, and 0 to none"
            )
        if self.width <= 0:
            raise UserError(f"width is {self.width}; it must be above 0")
        self._check_sizes()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths from the encoded point to the output."""
        first = {
            "none": self.in_dim,
            "positional": self.in_dim * (1 + 2 * self.frequencies),
            "fourier": 2 * self.frequencies,
        }[self.encoding]
        return (first, *self.hidden, self.out_dim)

    @property
    def num_weights(self) -> int:
        numbers = sum(m * n + n for m, n in itertools.pairwise(self.sizes))
        if self.activation == "gabor":
            numbers += sum(m * n + n for m, n in itertools.pairwise(self.sizes[:-1]))
        return numbers + self.in_dim * self.frequencies * (self.encoding == "fourier")

    def abstract(self) -> FieldWeights:
        layers = [affine(m, n) for m, n in itertools.pairwise(self.sizes)]
        if self.activation == "gabor":
            for layer in layers[:-1]:
                layer |= {f"scale_{name}": leaf for name, leaf in layer.items()}
        weights: FieldWeights = {"layers": tuple(layers)}
        if self.encoding == "fourier":
            shape = (self.in_dim, self.frequencies)
            weights["projection"] = jax.ShapeDtypeStruct(shape, np.float32)
        return weights

    def init(self, key: Key[Array, ""]) -> FieldWeights:
        """One network at its start: PyTorch's U(±1/√fan_in), projections N(0, `projection_std`²).

        Kernels behind a sine are U(±√(6/fan_in)/w0), as in a SIREN.
        """
        layers = []
        for index, shapes in enumerate(self.abstract()["layers"]):
            fan_in = shapes["kernel"].shape[0]
            drawn = {}
            for name, leaf in shapes.items():
                key, own = jax.random.split(key)
                bound = 1 / math.sqrt(fan_in)
                if self.activation == "sine" and name == "kernel" and index < len(self.hidden):
                    bound = math.sqrt(6 / fan_in) / self.w0 if index else bound**2
                drawn[name] = jax.random.uniform(own, leaf.shape, jnp.float32, -bound, bound)
            layers.append(drawn)
        weights: FieldWeights = {"layers": tuple(layers)}
        if self.encoding == "fourier":
            shape = (self.in_dim, self.frequencies)
            drawn = jax.random.normal(jax.random.fold_in(key, 1), shape)
            weights["projection"] = self.projection_std * drawn
        return weights

    def moved(
        self,
        weights: FieldWeights,
        matrix_DxD: Float[Array, "D D"],
        shift_D: Float[Array, " D"],
    ) -> FieldWeights:
        """See `NetworkSpec`."""
        if self.encoding != "none":  # the first layer does not read the points themselves
            self.cannot_move()
        first, *rest = weights["layers"]
        return weights | {"layers": (moved_layer(first, matrix_DxD, shift_D), *rest)}

    def apply(self, weights: FieldWeights, probes: Float[Array, "P D"]) -> Float[Array, "P R"]:
        return self.apply_with_taps(weights, probes)[-1]

    def apply_with_taps(
        self, weights: FieldWeights, probes: Float[Array, "P D"]
    ) -> tuple[Float[Array, "P H"], ...]:
        """See `NetworkSpec`; a hidden layer's tap is its activation's argument."""
        x, taps = self._encoded(weights, probes), []
        *hidden, last = weights["layers"]
        for layer, w0 in zip(hidden, self._w0s, strict=True):
            taps.append(x @ layer["kernel"] + layer["bias"][None])
            x = self._activated(taps[-1], x, layer, w0)
        return *taps, x @ last["kernel"] + last["bias"][None] + self.output_shift

    def _encoded(
        self, weights: FieldWeights, probes: Float[Array, "P D"]
    ) -> Float[Array, "P first"]:
        if self.encoding == "none":
            return probes
        if self.encoding == "fourier":
            projection = jax.lax.stop_gradient(weights["projection"])
            phases = 2 * math.pi * (probes @ projection)
            return jnp.concatenate([sine(phases), sine(phases + math.pi / 2)], axis=-1)
        octaves = [2.0**n * self.first_octave * probes for n in range(self.frequencies)]
        waves = [sine(octave + shift) for octave in octaves for shift in (0.0, math.pi / 2)]
        return jnp.concatenate([probes, *waves], axis=-1)

    def _activated(
        self,
        x: Float[Array, "P H"],
        before: Float[Array, "P M"],
        layer: Mapping[str, Array],
        w0: float,
    ) -> Float[Array, "P H"]:
        if self.activation == "gabor":
            scale = before @ layer["scale_kernel"] + layer["scale_bias"][None]
            return sine(w0 * x + math.pi / 2) * jnp.exp(-jnp.square(self.width * scale))
        functions = {
            "relu": jax.nn.relu,
            "gelu": lambda x: jax.nn.gelu(x, approximate=False),
            "tanh": jnp.tanh,
            "sine": lambda x: sine(w0 * x),
            "gaussian": lambda x: jnp.exp(-jnp.square(x) / (2 * self.width**2)),
        }
        return functions[self.activation](x)

    @property
    def _w0s(self) -> tuple[float, ...]:
        first = self.w0 if self.w0_first is None else self.w0_first
        return (first, *[self.w0] * (len(self.hidden) - 1))

    def at_w0(self, weights: FieldWeights, w0: float, w0_first: float) -> FieldWeights | None:
        if self.activation != "sine" or not all(self._w0s):
            return None
        wanted = (w0_first, *[w0] * (len(self.hidden) - 1))
        factors = [new / old for new, old in zip(wanted, self._w0s, strict=True)]
        return weights | {"layers": with_factors(weights["layers"], factors)}

    def phase_gain(self, weights: FieldWeights) -> float | None:
        return gain_of(weights["layers"], self._w0s) if self.activation == "sine" else None

    def to_json(self) -> dict[str, Any]:
        """See `NetworkSpec`; as earlier versions wrote it where it has nothing that is newer."""
        newer = {"first_octave": math.pi, "w0_first": None}
        return {k: v for k, v in super().to_json().items() if k not in newer or v != newer[k]}

    def file_shapes(
        self, config: Mapping[str, Any] | None, name: str, options: ReadOptions
    ) -> dict[str, tuple[int, ...]]:
        shapes = super().file_shapes(config, name, options)
        if self.activation == "gabor":
            for index, (m, n) in enumerate(itertools.pairwise(self.sizes[:-1])):
                layer = options.scale_key.format(index)
                shapes |= {f"{layer}.weight": (n, m), f"{layer}.bias": (n,)}
        if self.encoding == "fourier":
            shapes[options.projection_key] = (self.frequencies, self.in_dim)
        return shapes

    def _from_state(self, state: Mapping[str, np.ndarray], options: ReadOptions) -> FieldWeights:
        layers = self._layers(state, options)
        if self.activation == "gabor":
            for index, layer in enumerate(layers[:-1]):
                scale = options.scale_key.format(index)
                layer["scale_kernel"] = state[f"{scale}.weight"].T
                layer["scale_bias"] = state[f"{scale}.bias"]
        weights: FieldWeights = {"layers": layers}
        if self.encoding == "fourier":
            weights["projection"] = state[options.projection_key].T
            if options.cos_first:
                halves = np.split(layers[0]["kernel"], 2)
                layers[0]["kernel"] = np.concatenate(halves[::-1])
                if self.activation == "gabor":
                    halves = np.split(layers[0]["scale_kernel"], 2)
                    layers[0]["scale_kernel"] = np.concatenate(halves[::-1])
        return weights

    def is_stacked(self, networks: Any) -> bool:
        """See `NetworkSpec`: single networks are state dicts, without `layers`."""
        return isinstance(networks, Mapping) and "layers" in networks
