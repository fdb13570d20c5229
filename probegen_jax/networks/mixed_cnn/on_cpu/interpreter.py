"""Runs CNNs of any mixture of architectures in one compiled computation, forwards and back.

A network is a *program*: for each layer its kind (sizes, kernel, stride, padding) and its row in
the table of all layers of that kind. The interpreter goes through the layers in a loop, and at each
jumps to the code of its kind, which works at its true size.

The loops are written by hand, forwards and back, because what automatic differentiation would keep
is unbounded: a `switch` keeps what *every* branch might need. Here the only thing that survives
from the forward pass is the *tape*: the pre-activations, one network's after the other's, each in
just the space that it needs. All images are flat in it, in (probe, row, column, channel) order.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.maps import Reading
from probegen_jax.networks.mixed_cnn.kinds import Dtype, Kind, Shape
from probegen_jax.networks.mixed_cnn.on_cpu import reading as maps
from probegen_jax.networks.mixed_cnn.on_cpu.convolution import convolve, convolve_back
from probegen_jax.networks.mixed_cnn.on_cpu.in_place import map_blocks, update_if, write_images

# Values that one step of an activation works on: small enough for the first caches.
_BLOCK = 32768

Program = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """The code for a set of kinds and a number of probes that run together.

    Attributes:
      kinds: what a program may use, in the order of the tables.
    """

    kinds: tuple[Kind, ...]
    max_layers: int
    image_shape: Shape
    chunk: int
    dtype: Dtype = "float32"

    @property
    def shapes(self) -> list[Shape]:
        """Shapes that a layer's output can have."""
        return sorted({kind.outputs for kind in self.kinds})

    @property
    def block(self) -> int:
        """Values that one step of an activation works on."""
        return min(_BLOCK, *(self.chunk * math.prod(shape) for shape in self.shapes))

    @property
    def slot(self) -> int:
        """Floats that hold any layer's input or output for one chunk.

        The last block of an activation may reach beyond the image: a slot leaves room for it.
        """
        shapes = (*self.shapes, self.image_shape)
        return self.chunk * max(math.prod(shape) for shape in shapes) + self.block

    @property
    def out_sizes(self) -> np.ndarray:
        """Floats per probe that a layer of each kind puts out."""
        return np.array([math.prod(kind.outputs) for kind in self.kinds], np.int32)

    @property
    def shape_ids(self) -> np.ndarray:
        """Place of each kind's output in `shapes`."""
        return np.array([self.shapes.index(kind.outputs) for kind in self.kinds], np.int32)

    def volumes(self, program: Program) -> jax.Array:
        """Floats per probe that each layer of a program puts on the tape; 0 where it has none."""
        sizes = jnp.asarray(self.out_sizes)[program["kind"]]
        layers = jnp.broadcast_to(jnp.arange(self.max_layers, dtype=jnp.int32), sizes.shape)
        return jnp.where(layers < program["depth"][..., None], sizes, 0)

    def inputs(self) -> jax.Array:
        """A buffer for what goes into each layer, and comes out of the last."""
        return jnp.zeros(((self.max_layers + 1) * self.slot,), jnp.float32)

    def gradients(self, reading: bool = False) -> tuple[jax.Array, ...]:
        """Buffers for gradients on their way back; one more if maps are read."""
        slots = (1, self.max_layers, 1) if reading else (1, self.max_layers)
        return tuple(jnp.zeros((n * self.slot,), jnp.float32) for n in slots)

    def forward(
        self,
        tables: Any,
        program: Program,
        probes: jax.Array,
        at: jax.Array,
        buffers: tuple[jax.Array, jax.Array],
        reading: Reading | None = None,
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array, Float[Array, "L P K"] | None]:
        """One network on one chunk of probes.

        Args:
          tables: of each kind, kernels (rows, k·k·in·out) and biases (rows, out).
          program: of the network.
          probes: flat, chunk·H·W·C values.
          at: for each layer, where on the tape.
          buffers: the tape, on which pre-activations are written, and `inputs()`. They go from call
            to call, because making new ones means filling them.
          reading: of maps, if they are asked for.

        Returns:
          The buffers, the responses (chunk, R), and what was read of each layer's maps.
        """
        tape, x = buffers
        # Slot l holds the input of layer l, so slot l+1 the output of layer l.
        x = jax.lax.dynamic_update_slice(x, probes, (0,))

        def layer(index, carry):
            x, tape, found = carry
            kind, row, source = (program[name][index] for name in ("kind", "row", "residual"))

            def run(number, x):
                code, table = self.kinds[number], tables[number]
                image = self._read(x, index * self.slot, code.inputs)
                kernel = table["kernel"][row].reshape(code.kernel_shape)
                z = convolve(image, kernel, code.stride, code.padding, self.dtype)
                return z + table["bias"][row].reshape(1, 1, 1, -1)

            shapes = [kind.outputs for kind in self.kinds]
            tape = write_images(kind, shapes, run, x, (tape, at[index]))

            def link(tape, zero):
                kinds = kind, program["kind"][source + zero]
                return self._add_image(tape, at[index], x, (source + 1) * self.slot, *kinds)

            tape = update_if(source >= 0, link, tape)
            x = map_blocks(
                list(ACTIVATIONS.values()),
                program["activation"][index],
                self._blocks(kind),
                self.block,
                [(tape, at[index])],
                (x, (index + 1) * self.slot),
            )
            if reading is not None:
                values = maps.forward(
                    *self._of_layer(reading, program, index),
                    (tape, at[index]),
                    (x, (index + 1) * self.slot),
                    reading.queries[index],
                )
                found = jax.lax.dynamic_update_index_in_dim(found, values, index, 0)
            return x, tape, found

        found = None
        if reading is not None:
            given = (self.max_layers, self.shapes[0], self.chunk, reading.queries[0])
            found = maps.nothing(reading.reduce, *given)
        x, tape, found = jax.lax.fori_loop(0, program["depth"], layer, (x, tape, found))
        widest = max(shape[2] for shape in self.shapes)

        def pool(shape):
            def branch(x):
                image = self._read(x, program["depth"] * self.slot, shape)
                pooled = jnp.mean(image, axis=(1, 2))
                return jnp.pad(pooled, ((0, 0), (0, widest - shape[2])))

            return branch

        last = program["kind"][program["depth"] - 1]
        branches = [pool(shape) for shape in self.shapes]
        pooled = jax.lax.switch(jnp.asarray(self.shape_ids)[last], branches, x)
        head = program["head"]
        return (tape, x), pooled @ head["kernel"] + head["bias"].reshape(1, -1), found

    def backward(
        self,
        tables: Any,
        program: Program,
        g: jax.Array,
        tape: jax.Array,
        at: jax.Array,
        buffers: tuple[jax.Array, ...],
        reading: Reading | None = None,
        g_found: Float[Array, "L P K"] | None = None,
    ) -> tuple[tuple[jax.Array, ...], jax.Array, Float[Array, "L Q"] | None]:
        """The gradients with respect to one chunk of probes, and to the queries.

        Args:
          tables: with `program` and `at`, as in `forward`.
          g: gradient with respect to the responses, (chunk, R).
          tape: with the pre-activations that `forward` wrote.
          buffers: `gradients()`, which go from call to call.
          g_found: gradient with respect to what was read of maps.

        Returns:
          The buffers, the gradient, flat as the probes are, and that of the queries.
        """
        g_last = g @ program["head"]["kernel"].T
        # Gradients after the activation of the layer at hand, and, slot by slot, before the
        # activation of each layer.
        gy, gz, *of_map = buffers
        last = program["kind"][program["depth"] - 1]
        for number, shape in enumerate(self.shapes):

            def spread(gy, zero, shape=shape):
                height, width, channels = shape
                g_pixel = (g_last / (height * width))[:, None, None, :channels]
                image = jax.lax.cond(
                    zero == 0,
                    lambda: jnp.broadcast_to(g_pixel, (self.chunk, *shape)),
                    lambda: jnp.zeros((self.chunk, *shape), jnp.float32),
                )
                return jax.lax.dynamic_update_slice(gy, image.reshape(-1), (0,))

            gy = update_if(jnp.asarray(self.shape_ids)[last] == number, spread, gy)

        def layer(step, carry):
            gy, gz, of_map, g_queries = carry
            index = program["depth"] - 1 - step
            kind, row = program["kind"][index], program["row"][index]

            def link(later, gy):
                def add(gy, zero):
                    kinds = kind, program["kind"][later + zero]
                    return self._add_image(gy, 0, gz, later * self.slot, *kinds)

                return update_if(program["residual"][later] == index, add, gy)

            gy = jax.lax.fori_loop(index + 1, program["depth"], link, gy)
            if reading is not None:
                # Two parts: of maps before the activation, `of_map`, and behind it, added to `gy`.
                gy, of_map[0], g_query = maps.backward(
                    *self._of_layer(reading, program, index),
                    (tape, at[index]),
                    program["activation"][index],
                    reading.queries[index],
                    g_found[index],
                    (gy, of_map[0]),
                )
                g_queries = jax.lax.dynamic_update_index_in_dim(g_queries, g_query, index, 0)

            def before(z, g, *of_map, f):
                return sum(of_map, jax.vjp(f, z)[1](g)[0])

            gz = map_blocks(
                [functools.partial(before, f=f) for f in ACTIVATIONS.values()],
                program["activation"][index],
                self._blocks(kind),
                self.block,
                [(tape, at[index]), (gy, 0), *((each, 0) for each in of_map)],
                (gz, index * self.slot),
            )

            def run(number, gz):
                code = self.kinds[number]
                kernel = tables[number]["kernel"][row].reshape(code.kernel_shape)
                g, size = self._read(gz, index * self.slot, code.outputs), code.inputs[:2]
                return convolve_back(g, kernel, code.stride, code.padding, size, self.dtype)

            gy = write_images(kind, [kind.inputs for kind in self.kinds], run, gz, (gy, 0))
            return gy, gz, of_map, g_queries

        g_queries = None if reading is None else jnp.zeros_like(reading.queries)
        carry = (gy, gz, of_map, g_queries)
        gy, gz, of_map, g_queries = jax.lax.fori_loop(0, program["depth"], layer, carry)
        return (gy, gz, *of_map), gy[: math.prod(self.image_shape) * self.chunk], g_queries

    def _of_layer(self, reading: Reading, program: Program, index: Any) -> tuple[Any, ...]:
        """What both ways of reading a layer's maps begin with."""
        chosen = jnp.asarray(self.shape_ids)[program["kind"][index]]
        return reading.reduce, self._read, self.shapes, chosen

    def _blocks(self, kind: jax.Array) -> jax.Array:
        """Blocks that the output of a layer of this kind fills, the last one perhaps partly."""
        counts = -(-self.out_sizes * self.chunk // self.block)
        return jnp.asarray(counts.astype(np.int32))[kind]

    def _read(self, buffer: jax.Array, at: Any, shape: Shape) -> jax.Array:
        """Images of a shape from a flat buffer."""
        size = (self.chunk * math.prod(shape),)
        return jax.lax.dynamic_slice(buffer, (at,), size).reshape(self.chunk, *shape)

    def _add_image(
        self,
        to: jax.Array,
        to_at: Any,
        from_: jax.Array,
        from_at: Any,
        to_kind: jax.Array,
        from_kind: jax.Array,
    ) -> jax.Array:
        """One layer's image plus another's of as many pixels, in the channels that both have."""
        ids = jnp.asarray(self.shape_ids)
        for shape in self.shapes:
            others = [other for other in self.shapes if other[:2] == shape[:2]]
            members = [others.index(s) if s in others else 0 for s in self.shapes]

            def total(other, to, from_, shape=shape):
                addend = self._read(from_, from_at, other)[..., : shape[2]]
                padding = ((0, 0),) * 3 + ((0, shape[2] - addend.shape[3]),)
                return self._read(to, to_at, shape) + jnp.pad(addend, padding)

            def add(to, zero, total=total, others=others, members=members):
                member = jnp.asarray(np.array(members, np.int32))[ids[from_kind]] + zero
                branches = [functools.partial(total, other) for other in others]
                images = jax.lax.switch(member, branches, to, from_)
                return jax.lax.dynamic_update_slice(to, images.reshape(-1), (to_at,))

            to = update_if(ids[to_kind] == self.shapes.index(shape), add, to)
        return to
