"""Runs CNNs of any mixture of architectures with loops of known length and few large operations.

An accelerator pays for every decision that its data make, and little for arithmetic. So images of
all layers have one shape, in which each lies in a corner; activations and links are one pass over
it, by selection; and the only decision is which convolution a layer is: one `switch` for each layer
and direction. Kinds of layers whose channels round up to the same widths share one.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.map_summaries import summaries
from probegen_jax.networks.maps import Reading
from probegen_jax.networks.mixed_cnn.kinds import Dtype, Kind, Shape

Program = dict[str, Any]
Tape = Float[Array, "layers P h w c"]


@dataclasses.dataclass(frozen=True)
class Uniform:
    """The code for a set of kinds.

    Attributes:
      kinds: what a program may use, in the order of the tables.
      activations: what a program may use, of `ACTIVATIONS`.
      one_width: whether all layers get as many channels as the widest. That is for matrix units,
        where a narrow layer takes no less time and each kind costs seconds of compilation.
    """

    kinds: tuple[Kind, ...]
    max_layers: int
    activations: tuple[str, ...]
    one_width: bool
    dtype: Dtype = "float32"

    @functools.cached_property
    def slot(self) -> Shape:
        """The shape that holds every image."""
        shapes = [shape for kind in self.kinds for shape in (kind.inputs, kind.outputs)]
        height, width, channels = (max(sides) for sides in zip(*shapes, strict=True))
        return height, width, channels

    @functools.cached_property
    def rounded(self) -> list[Kind]:
        """The kind whose code each kind runs."""
        if not self.one_width:
            return list(self.kinds)

        def widest(shape: Shape) -> Shape:
            return (*shape[:2], self.slot[2])

        return [
            dataclasses.replace(kind, inputs=widest(kind.inputs), outputs=widest(kind.outputs))
            for kind in self.kinds
        ]

    @functools.cached_property
    def codes(self) -> list[Kind]:
        """The kinds that there is code for."""
        return sorted(set(self.rounded))

    def tape(self, networks: int, probes: int) -> Tape:
        """Room for the pre-activations of all layers of so many networks."""
        return jax.lax.empty((networks * self.max_layers, probes, *self.slot), jnp.float32)

    def forward(
        self,
        tables: Any,
        program: Program,
        probes: Float[Array, "P H W C"],
        tape: Tape | None = None,
        first: jax.Array | int = 0,
        reading: Reading | None = None,
    ) -> tuple[Float[Array, "P R"], Float[Array, "L P K"] | None, Tape | None]:
        """One network on some probes.

        Args:
          tables: of each kind, kernels (rows, k·k·in·out) and biases (rows, out).
          tape: where pre-activations are to be written; None if nowhere.
          first: where on the tape those of the first layer go.
          reading: of maps, if they are asked for.

        Returns:
          The responses, what was read of each layer's maps, and the tape.
        """
        x = _in_corner(probes, self.slot)
        outputs = jnp.zeros((self.max_layers, *x.shape), jnp.float32)

        def layer(carry, step):
            x, outputs, tape = carry
            (index, kind, row, activation, source), query = step
            used = index < program["depth"]

            def run(code, x):
                kernel, bias = self._affine(tables, code, kind, row)
                kernel = _laid_out(kernel)
                z = self._convolve(_corner(x, code.inputs), kernel, code.stride, code.padding)
                return _in_corner(z + bias.reshape(1, 1, 1, -1), self.slot)

            z = self._switch(kind, used, run, x)
            linked = jax.lax.dynamic_index_in_dim(outputs, jnp.maximum(source, 0), keepdims=False)
            z = z + jnp.where(source >= 0, linked, 0)
            y, found = self._after(kind, activation, reading, z, query)
            if found is not None:
                found = jnp.where(used, found, 0)
            if tape is not None:
                tape = jax.lax.dynamic_update_index_in_dim(tape, z, first + index, 0)
            outputs = jax.lax.dynamic_update_index_in_dim(outputs, y, index, 0)
            return (jnp.where(used, y, x), outputs, tape), found

        steps = (self._steps(program), None if reading is None else reading.queries)
        (x, _, tape), found = jax.lax.scan(layer, (x, outputs, tape), steps)
        pooled = jnp.sum(x, axis=(1, 2)) / self._pixels(program)
        head = program["head"]
        responses = _corner(pooled, head["kernel"].shape[:1]) @ head["kernel"] + head["bias"][None]
        return responses, found, tape

    def backward(
        self,
        tables: Any,
        program: Program,
        g: Float[Array, "P R"],
        tape: Tape,
        first: jax.Array,
        reading: Reading | None = None,
        g_found: Float[Array, "L P K"] | None = None,
    ) -> tuple[Float[Array, "P h w c"], Float[Array, "L Q"] | None]:
        """The gradients with respect to the probes, in a corner of it, and to the queries.

        Args:
          g: gradient with respect to the responses.
          tape: that `forward` wrote from `first` on.
          g_found: gradient with respect to what was read of maps.
        """
        g_pixel = _in_corner(g @ program["head"]["kernel"].T, self.slot[2:])
        g_pixel = (g_pixel / self._pixels(program))[:, None, None]

        def layer(carry, step):
            # Gradients with respect to this layer's output, and by links to any layer's.
            g_y, g_linked = carry
            (index, kind, row, activation, source), query, g_read = step
            used = index < program["depth"]
            g_y = g_y + jax.lax.dynamic_index_in_dim(g_linked, index, keepdims=False)
            g_y = g_y + jnp.where(index == program["depth"] - 1, g_pixel, 0)
            g_y = jnp.where(used, g_y, 0)
            if g_read is not None:
                g_read = jnp.where(used, g_read, 0)
            z = jax.lax.dynamic_index_in_dim(tape, first + index, keepdims=False)
            after = functools.partial(self._after, kind, activation, reading)
            g_z, g_query = jax.vjp(after, z, query)[1]((g_y, g_read))
            at = jnp.maximum(source, 0)
            total = jax.lax.dynamic_index_in_dim(g_linked, at, keepdims=False)
            total = total + jnp.where(source >= 0, g_z, 0)
            g_linked = jax.lax.dynamic_update_index_in_dim(g_linked, total, at, 0)

            def run(code, g_z):
                kernel, _ = self._affine(tables, code, kind, row)
                kernel = _laid_out(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
                g_x = self._convolve_back(_corner(g_z, code.outputs), kernel, code)
                return _in_corner(g_x, self.slot)

            return (self._switch(kind, used, run, g_z), g_linked), g_query

        nothing = jnp.zeros((g.shape[0], *self.slot), jnp.float32)
        g_linked = jnp.zeros((self.max_layers, *nothing.shape), jnp.float32)
        steps = (self._steps(program), None if reading is None else reading.queries, g_found)
        (g_x, _), g_queries = jax.lax.scan(layer, (nothing, g_linked), steps, reverse=True)
        return g_x, g_queries

    def _steps(self, program: Program) -> tuple[jax.Array, ...]:
        """What the loop over layers goes through."""
        names = ("kind", "row", "activation", "residual")
        return (jnp.arange(self.max_layers, dtype=jnp.int32), *(program[name] for name in names))

    def _switch(
        self,
        kind: jax.Array,
        used: jax.Array,
        run: Callable[[Kind, jax.Array], jax.Array],
        images: jax.Array,
    ) -> jax.Array:
        """`run` with the code of a layer's kind; zeros where a network has no such layer."""
        numbers = np.array([self.codes.index(code) for code in self.rounded], np.int32)
        chosen = jnp.where(used, jnp.asarray(numbers)[kind], len(self.codes))
        branches = [functools.partial(run, code) for code in self.codes]
        return jax.lax.switch(chosen, [*branches, jnp.zeros_like], images)

    def _affine(
        self, tables: Any, code: Kind, kind: jax.Array, row: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Kernel and bias of a layer whose kind runs this code, with zeros beyond its channels."""
        kernel = jnp.zeros(code.kernel_shape, jnp.float32)
        bias = jnp.zeros(code.outputs[2:], jnp.float32)
        for number, (own, rounded) in enumerate(zip(self.kinds, self.rounded, strict=True)):
            if rounded == code:
                table, mine = tables[number], kind == number
                k = _in_corner(table["kernel"][row].reshape(own.kernel_shape), kernel.shape[1:])
                kernel = jnp.where(mine, k, kernel)
                bias = jnp.where(mine, _in_corner(table["bias"][row][None], bias.shape)[0], bias)
        return kernel, bias

    def _activate(self, chosen: jax.Array, z: jax.Array) -> jax.Array:
        """The chosen of all activations, by selection."""
        y = z
        for number, (name, function) in enumerate(ACTIVATIONS.items()):
            if name in self.activations and name != "none":
                y = jnp.where(chosen == number, function(z), y)
        return y

    def _after(
        self,
        kind: jax.Array,
        activation: jax.Array,
        reading: Reading | None,
        z: Float[Array, "P h w c"],
        query: jax.Array | None,
    ) -> tuple[Float[Array, "P h w c"], Float[Array, "P K"] | None]:
        """A layer's output from its pre-activation, and what is read of its maps."""
        y = jnp.where(self._inside(kind), self._activate(activation, z), 0)
        if reading is None:
            return y, None
        # Cells depend on the size of an image, which often is the same for all kinds.
        sizes = sorted({each.outputs[:2] for each in self.kinds})
        place = jnp.asarray([sizes.index(each.outputs[:2]) for each in self.kinds], jnp.int32)[kind]

        def summarised(size: tuple[int, int], z: jax.Array, y: jax.Array) -> Any:
            return summaries(_corner(z, size), _corner(y, size))

        branches = [functools.partial(summarised, size) for size in sizes]
        parts = jax.lax.switch(place, branches, z, y)
        widths = jnp.asarray([each.outputs[2] for each in self.kinds], jnp.int32)[kind]
        there = jnp.arange(self.slot[2], dtype=jnp.int32) < widths
        return y, reading.reduce(*parts, there, query)

    def _inside(self, kind: jax.Array) -> jax.Array:
        """Where the output of a layer lies in the shape that holds every image."""
        sizes = jnp.asarray(np.array([each.outputs for each in self.kinds], np.int32))[kind]
        rows, columns, channels = (jnp.arange(n, dtype=jnp.int32) for n in self.slot)
        pixels = (rows < sizes[0])[:, None, None] & (columns < sizes[1])[None, :, None]
        return (pixels & (channels < sizes[2])[None, None])[None]

    def _pixels(self, program: Program) -> jax.Array:
        """Pixels of the last layer's output."""
        counts = np.array([math.prod(kind.outputs[:2]) for kind in self.kinds], np.float32)
        return jnp.asarray(counts)[program["kind"][program["depth"] - 1]]

    def _convolve(
        self, images: jax.Array, kernel: jax.Array, stride: int, padding: int
    ) -> jax.Array:
        """A convolution without bias; what is multiplied has the `dtype`, sums are float32."""
        return self._general(images, kernel, (stride,) * 2, [(padding, padding)] * 2, (1, 1))

    def _convolve_back(self, g: jax.Array, turned: jax.Array, code: Kind) -> jax.Array:
        """Its gradient with respect to the images; the kernel is turned round, its axes swapped."""
        before = code.kernel - 1 - code.padding
        padding = [
            (before, given + code.padding - 1 - (out - 1) * code.stride)
            for given, out in zip(code.inputs[:2], code.outputs[:2], strict=True)
        ]
        return self._general(g, turned, (1, 1), padding, (code.stride,) * 2)

    def _general(
        self,
        images: jax.Array,
        kernel: jax.Array,
        strides: tuple[int, ...],
        padding: list[tuple[int, int]],
        dilation: tuple[int, ...],
    ) -> jax.Array:
        return jax.lax.conv_general_dilated(
            images.astype(self.dtype),
            kernel.astype(self.dtype),
            strides,
            padding,
            lhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            preferred_element_type=jnp.float32,
        )


def _corner(images: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What lies in a corner of images."""
    return images[(slice(None), *map(slice, shape))]


def _in_corner(images: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Images, each in a corner of a shape, with zeros beyond it."""
    padding = [(0, n - m) for m, n in zip(images.shape[1:], shape, strict=True)]
    return jnp.pad(images, [(0, 0), *padding])


def _laid_out(kernel: jax.Array) -> jax.Array:
    """A kernel in memory, outputs last: else a TPU convolves at a third of the speed."""
    kernel = with_layout_constraint(kernel, Layout((0, 1, 2, 3)))
    return jax.lax.optimization_barrier(kernel)
