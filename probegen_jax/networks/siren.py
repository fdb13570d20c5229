"""SIRENs: the implicit neural representations (INRs) of an image zoo (Sitzmann et al., 2020).

The zoos of Navon et al. (2023) use 2→32→32→1 with sin(30·(Wx + b)) twice, then a linear layer, then
+0.5.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from probegen_jax.networks.options import Options, ReadOptions
from probegen_jax.networks.points import PointSpec, gain_of, moved_layer, with_factors
from probegen_jax.networks.shapes import affine
from probegen_jax.networks.sine import EXACT_TO, sine

# How arrays are called in the files of NFN's SIRENs (Zhou et al., 2023).
NFN_KEYS = ReadOptions(layer_key="net.{}.linear", last_layer_key="net.{}")

# A layer is {"kernel": (in, out), "bias": (out,)}; stacked, with a leading network axis on both.
SirenWeights = tuple[dict[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class SirenSpec(PointSpec):
    """The static part of a SIREN: everything but its weights.

    Attributes:
      in_dim: coordinates of a probe, D.
      out_dim: values of a response, R (1 for grayscale, 3 for RGB).
      w0: factor inside every sine.
      output_shift: added to the last layer's output; 0.5 centres it on targets in [0, 1].
      grid: order of the coordinates of a pixel: "xy" is x (column) first, "ij" is row first.
      sine: how sines are computed: "fast", see `sine.sine`, or "exact", XLA's own.
      block_size: networks of a batch that run side by side; all, if None.
      w0_first: factor inside the first layer's sines, if it is not `w0`, as in siren-pytorch.
    """

    hidden: tuple[int, ...] = (32, 32)
    in_dim: int = 2
    out_dim: int = 1
    w0: float = 30.0
    output_shift: float = 0.5
    grid: Literal["xy", "ij"] = "xy"
    sine: Literal["fast", "exact"] = "fast"
    block_size: int | None = None
    w0_first: float | None = None

    def __post_init__(self):
        self._check_sizes()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths from input to output."""
        return (self.in_dim, *self.hidden, self.out_dim)

    @property
    def w0s(self) -> tuple[float, ...]:
        """The factor inside the sines of each hidden layer."""
        first = self.w0 if self.w0_first is None else self.w0_first
        return (first, *[self.w0] * (len(self.hidden) - 1))

    @property
    def num_weights(self) -> int:
        return sum(m * n + n for m, n in itertools.pairwise(self.sizes))

    def abstract(self) -> SirenWeights:
        return tuple(affine(m, n) for m, n in itertools.pairwise(self.sizes))

    def init(self, key: Key[Array, ""]) -> SirenWeights:
        """One network as the published zoos start: U(±√(6/fan_in)/w0) kernels, zero biases.

        The last layer has PyTorch's default, U(±1/√fan_in) for kernel and bias (DESIGN: the
        DWSNets recipe).
        """
        layers = []
        for index, (m, n) in enumerate(itertools.pairwise(self.sizes)):
            key, kernel_key, bias_key = jax.random.split(key, 3)
            last = index == len(self.hidden)
            bound = 1 / math.sqrt(m) if last else math.sqrt(6 / m) / self.w0s[index]
            kernel = jax.random.uniform(kernel_key, (m, n), jnp.float32, -bound, bound)
            bias = jnp.zeros((n,), jnp.float32)
            if last:
                bias = jax.random.uniform(bias_key, (n,), jnp.float32, -bound, bound)
            layers.append({"kernel": kernel, "bias": bias})
        return tuple(layers)

    def start(self, key: Key[Array, ""], recipe: str) -> SirenWeights:
        """See `PointSpec`; "dwsnets" is `init`, "siren" as Sitzmann et al. (2020) have it."""
        weights = self.init(key)
        if recipe == "dwsnets":
            return weights
        first, *hidden, last = weights
        scale = self.w0s[0] / math.sqrt(6 * self.in_dim)  # from ±√(6/fan_in)/w0 to ±1/fan_in
        first = {"kernel": first["kernel"] * scale, "bias": first["bias"]}
        # From ±1/√fan_in to ±√(6/fan_in)/w0.
        last = {name: leaf * (math.sqrt(6) / self.w0) for name, leaf in last.items()}
        return (first, *hidden, last)

    def apply(self, weights: SirenWeights, probes: Float[Array, "P D"]) -> Float[Array, "P R"]:
        """One network's values at every probe; on the image, coordinates are in [-1, 1]."""
        return self.apply_with_taps(weights, probes)[-1]

    def apply_with_taps(
        self, weights: SirenWeights, probes: Float[Array, "P D"]
    ) -> tuple[Float[Array, "P H"], ...]:
        """See `NetworkSpec`; a hidden layer's tap is its sines' argument, in radians."""
        # Coordinates are so few that multiply-adds, which fuse with the sine, beat a matmul.
        first = weights[0]
        phases = first["bias"][None]
        for d in range(self.in_dim):
            phases = probes[:, d, None] * first["kernel"][d][None] + phases
        sin = {"fast": sine, "exact": jnp.sin}[self.sine]
        w0, *w0s = self.w0s
        taps = [w0 * phases]
        for w0, layer in zip(w0s, weights[1:-1], strict=True):
            x = sin(taps[-1])
            taps.append(w0 * (x @ layer["kernel"] + layer["bias"][None]))
        last = sin(taps[-1]) @ weights[-1]["kernel"] + weights[-1]["bias"][None]
        return *taps, last + self.output_shift

    def moved(
        self,
        weights: SirenWeights,
        matrix_DxD: Float[Array, "D D"],
        shift_D: Float[Array, " D"],
    ) -> SirenWeights:
        """See `NetworkSpec`."""
        return (moved_layer(weights[0], matrix_DxD, shift_D), *weights[1:])

    def at_w0(self, weights: SirenWeights, w0: float, w0_first: float) -> SirenWeights | None:
        if not all(self.w0s):
            return None
        wanted = (w0_first, *[w0] * (len(self.hidden) - 1))
        return with_factors(weights, [new / old for new, old in zip(wanted, self.w0s, strict=True)])

    def phase_gain(self, weights: SirenWeights) -> float | None:
        return gain_of(weights, self.w0s)

    def phase_bound(self, weights: SirenWeights, reach: float) -> float:
        """What no sine's argument exceeds, in radians, if no probe's coordinate exceeds `reach`."""
        bound, most = 0.0, reach
        for w0, layer in zip(self.w0s, weights[:-1], strict=True):
            kernel, bias = (np.asarray(layer[name]) for name in ("kernel", "bias"))
            for start in range(0, len(bias), 4096):  # |kernel| is as large as the kernel
                block = slice(start, start + 4096)
                phases = most * np.abs(kernel[block]).sum(axis=1) + np.abs(bias[block])
                bound = max(bound, abs(w0) * float(phases.max()))
            most = 1.0  # a sine is no more
        return bound

    def with_options(self, options: Options, weights: SirenWeights | None = None) -> "SirenSpec":
        """See `NetworkSpec`; "auto" is the fast sine unless weights show that it would not do."""
        sine = options.sine
        if sine == "auto":
            # A stored zoo is not read for this. Probes go where training takes them; ten times as
            # far as the image reaches has never been seen.
            far = weights is not None and self.phase_bound(weights, reach=10.0) > EXACT_TO
            sine = "exact" if far else "fast"
        return dataclasses.replace(super().with_options(options, weights), sine=sine)

    def to_json(self) -> dict[str, Any]:
        """See `NetworkSpec`; as earlier versions wrote it where `w0_first` is not set."""
        values = super().to_json()
        if self.w0_first is None:
            del values["w0_first"]
        return values

    kind = "a SIREN"

    def _from_state(self, state: Mapping[str, np.ndarray], options: ReadOptions) -> SirenWeights:
        return self._layers(state, options)

    def is_stacked(self, networks: Any) -> bool:
        """See `NetworkSpec`: layers are dicts with a kernel, single networks are not."""
        several = isinstance(networks, Sequence) and len(networks) > 0
        first = networks[0] if several else networks
        return not isinstance(first, Mapping) or "kernel" in first
