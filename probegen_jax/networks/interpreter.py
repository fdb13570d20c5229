"""Runs CNNs of any mixture of architectures in one compiled computation, forwards and back.

A network is a *program*: for each layer its kind (sizes, kernel, stride, padding) and its row in
the table of all layers of that kind. The interpreter goes through the layers in a loop, and at each
jumps to the code of its kind, which works at its true size.

The loops are written by hand, forwards and back, because what automatic differentiation would keep
is unbounded: a `switch` keeps what *every* branch might need. Here the only thing that survives
from the forward pass is the *tape*: the pre-activations, one network's after the other's, each in
just the space that it needs. All images are flat in it, in (probe, row, column, channel) order.

XLA copies a buffer that a conditional updates, but not one that a loop updates. So a layer that may
be of several sizes is a row of loops that run once or not at all.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.convolution import Dtype, convolve, convolve_back

# Values that one step of an activation works on: small enough for the first caches.
_BLOCK = 32768

Shape = tuple[int, int, int]
Program = dict[str, Any]


@dataclasses.dataclass(frozen=True, order=True)
class Kind:
    """What decides a layer's code: everything about it but its numbers.

    Attributes:
      kernel: side of the kernel, in pixels.
      stride: in pixels.
      padding: in pixels.
      inputs: height, width and channels of an image that goes in.
      outputs: of one that comes out.
    """

    kernel: int
    stride: int
    padding: int
    inputs: Shape
    outputs: Shape


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """The code for a set of kinds and a number of probes that run together.

    Attributes:
      kinds: kinds of layers that a program may use, in the order of the tables.
      max_layers: of a program.
      image_shape: height, width and channels of a probe.
      chunk: probes that run together.
      dtype: what convolutions multiply in.
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
        layers = jnp.arange(self.max_layers, dtype=jnp.int32)
        sizes = jnp.asarray(self.out_sizes)[program["kind"]]
        layers = jnp.broadcast_to(layers, sizes.shape)
        return jnp.where(layers < program["depth"][..., None], sizes, 0)

    def inputs(self) -> jax.Array:
        """A buffer for what goes into each layer, and comes out of the last."""
        return jnp.zeros(((self.max_layers + 1) * self.slot,), jnp.float32)

    def gradients(self) -> tuple[jax.Array, ...]:
        """Buffers for gradients on their way back."""
        slots = (1, 1, self.max_layers)
        return tuple(jnp.zeros((many * self.slot,), jnp.float32) for many in slots)

    def forward(
        self,
        tables: Any,
        program: Program,
        probes: jax.Array,
        at: jax.Array,
        buffers: tuple[jax.Array, jax.Array],
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """One network on one chunk of probes.

        Args:
          tables: of each kind, kernels (rows, k, k, in, out) and biases (rows, out).
          program: of the network.
          probes: flat, chunk·H·W·C values.
          at: for each layer, where on the tape.
          buffers: the tape, on which pre-activations are written, and `inputs()`. They go from call
            to call, because making new ones means filling them.

        Returns:
          The buffers, and the responses (chunk, R).
        """
        tape, x = buffers
        # Slot l holds the input of layer l, so slot l+1 the output of layer l.
        x = jax.lax.dynamic_update_slice(x, probes, (0,))

        def layer(index, carry):
            x, tape = carry
            kind, row, source = (program[name][index] for name in ("kind", "row", "residual"))

            def run(number):
                def branch(x):
                    image = self._read(x, index * self.slot, self.kinds[number].inputs)
                    return self._convolve(number, tables, row, image).reshape(-1)

                return branch

            for numbers in _groups([math.prod(kind.outputs) for kind in self.kinds]):
                tape = _if_one_of(
                    kind,
                    numbers,
                    lambda tape, member, numbers=numbers: jax.lax.dynamic_update_slice(
                        tape,
                        jax.lax.switch(member, [run(number) for number in numbers], x),
                        (at[index],),
                    ),
                    tape,
                )
            tape = self._add_residual(
                tape, at[index], kind, x, (source + 1) * self.slot, program, source
            )

            def activate(block, x):
                start = block * self.block
                z = jax.lax.dynamic_slice(tape, (at[index] + start,), (self.block,))
                y = jax.lax.switch(program["activation"][index], list(ACTIVATIONS.values()), z)
                return jax.lax.dynamic_update_slice(x, y, ((index + 1) * self.slot + start,))

            return jax.lax.fori_loop(0, self._blocks(kind), activate, x), tape

        x, tape = jax.lax.fori_loop(0, program["depth"], layer, (x, tape))

        def pool(shape):
            def branch(x):
                image = self._read(x, program["depth"] * self.slot, shape)
                pooled = jnp.mean(image, axis=(1, 2))
                return jnp.pad(pooled, ((0, 0), (0, self._widest - shape[2])))

            return branch

        last = program["kind"][program["depth"] - 1]
        branches = [pool(shape) for shape in self.shapes]
        pooled = jax.lax.switch(jnp.asarray(self.shape_ids)[last], branches, x)
        head = program["head"]
        return (tape, x), pooled @ head["kernel"] + head["bias"].reshape(1, -1)

    def backward(
        self,
        tables: Any,
        program: Program,
        g: jax.Array,
        read: Callable[[jax.Array, jax.Array], jax.Array],
        buffers: tuple[jax.Array, ...],
    ) -> tuple[tuple[jax.Array, ...], jax.Array]:
        """The gradient with respect to one chunk of probes.

        Args:
          tables: as in `forward`.
          program: of the network.
          g: gradient with respect to the responses, (chunk, R).
          read: from a layer and an offset to a block of its pre-activations.
          buffers: `gradients()`, which go from call to call.

        Returns:
          The buffers, and the gradient, flat as the probes are.
        """
        g_last = g @ program["head"]["kernel"].T
        # `gy` and `gz` are gradients after and before the activation of the layer at hand; `links`
        # collects, slot by slot, what flows back through residual links.
        gy, gz, links = buffers
        linked = jnp.zeros((self.max_layers,), bool)
        last = program["kind"][program["depth"] - 1]
        for number, shape in enumerate(self.shapes):

            def spread(gy, zero, shape=shape):
                height, width, channels = shape
                g_pooled, _ = jax.lax.optimization_barrier((g_last, zero))
                image = g_pooled[:, None, None, :channels] / np.float32(height * width)
                image = jnp.broadcast_to(image, (self.chunk, *shape))
                return jax.lax.dynamic_update_slice(gy, image.reshape(-1), (0,))

            gy = _if(jnp.asarray(self.shape_ids)[last] == number, spread, gy)

        def layer(step, carry):
            gy, gz, links, linked = carry
            index = program["depth"] - 1 - step
            kind, row, source = (program[name][index] for name in ("kind", "row", "residual"))

            def add(block, gy):
                start = block * self.block
                more = jax.lax.dynamic_slice(
                    links, (index * self.slot + start,), (self.block,)
                ) + jax.lax.dynamic_slice(gy, (start,), (self.block,))
                return jax.lax.dynamic_update_slice(gy, more, (start,))

            blocks = self._blocks(kind)
            gy = jax.lax.fori_loop(0, jnp.where(linked[index], blocks, 0), add, gy)

            def deactivate(block, gz):
                start = block * self.block
                z = read(index, start)
                g = jax.lax.dynamic_slice(gy, (start,), (self.block,))
                back = [lambda z, g, f=f: jax.vjp(f, z)[1](g)[0] for f in ACTIVATIONS.values()]
                g = jax.lax.switch(program["activation"][index], back, z, g)
                return jax.lax.dynamic_update_slice(gz, g, (start,))

            gz = jax.lax.fori_loop(0, blocks, deactivate, gz)
            links = self._add_link(links, source, program, gz, kind, linked)
            linked = linked.at[jnp.maximum(source, 0)].set(
                linked[jnp.maximum(source, 0)] | (source >= 0)
            )

            def run(number):
                def branch(gz):
                    image = self._read(gz, 0, self.kinds[number].outputs)
                    return self._convolve_back(number, tables, row, image).reshape(-1)

                return branch

            for numbers in _groups([math.prod(kind.inputs) for kind in self.kinds]):
                gy = _if_one_of(
                    kind,
                    numbers,
                    lambda gy, member, numbers=numbers: jax.lax.dynamic_update_slice(
                        gy, jax.lax.switch(member, [run(number) for number in numbers], gz), (0,)
                    ),
                    gy,
                )
            return gy, gz, links, linked

        carry = (gy, gz, links, linked)
        gy, gz, links, _ = jax.lax.fori_loop(0, program["depth"], layer, carry)
        return (gy, gz, links), gy[: math.prod(self.image_shape) * self.chunk]

    @property
    def _widest(self) -> int:
        return max(shape[2] for shape in self.shapes)

    def _blocks(self, kind: jax.Array) -> jax.Array:
        """Blocks that the output of a layer of this kind fills, the last one perhaps partly."""
        counts = -(-self.out_sizes * self.chunk // self.block)
        return jnp.asarray(counts.astype(np.int32))[kind]

    def _read(self, buffer: jax.Array, at: Any, shape: Shape) -> jax.Array:
        """Images of a shape from a flat buffer."""
        size = (self.chunk * math.prod(shape),)
        return jax.lax.dynamic_slice(buffer, (at,), size).reshape(self.chunk, *shape)

    def _convolve(self, number: int, tables: Any, row: jax.Array, image: jax.Array) -> jax.Array:
        kind = self.kinds[number]
        z = convolve(image, tables[number]["kernel"][row], kind.stride, kind.padding, self.dtype)
        return z + tables[number]["bias"][row].reshape(1, 1, 1, -1)

    def _convolve_back(self, number: int, tables: Any, row: jax.Array, g: jax.Array) -> jax.Array:
        kind = self.kinds[number]
        kernel = tables[number]["kernel"][row]
        return convolve_back(g, kernel, kind.stride, kind.padding, kind.inputs[:2], self.dtype)

    def _pairs(self) -> list[tuple[int, int]]:
        """Shapes between which a residual link can be: the same pixels, any channels."""
        shapes = range(len(self.shapes))
        return [(a, b) for a in shapes for b in shapes if self.shapes[a][:2] == self.shapes[b][:2]]

    def _add_shared(self, buffer, at, from_, from_at, pair, where, keep):
        """`buffer` (zeros unless `keep`) plus the channels that both shapes of `pair` have."""
        to_shape, from_shape = (self.shapes[number] for number in pair)
        shared = min(to_shape[2], from_shape[2])

        def add(buffer, zero):
            addend = self._read(from_, from_at + zero, from_shape)[..., :shared]
            addend = jnp.pad(addend, ((0, 0),) * 3 + ((0, to_shape[2] - shared),))
            total = jnp.where(keep, self._read(buffer, at, to_shape), 0.0) + addend
            return jax.lax.dynamic_update_slice(buffer, total.reshape(-1), (at,))

        return _if(where, add, buffer)

    def _add_residual(self, tape, at, kind, x, x_at, program, source):
        """The output of layer `source`, if there is such a link, added to pre-activations."""
        ids = jnp.asarray(self.shape_ids)
        here, there = ids[kind], ids[program["kind"][jnp.maximum(source, 0)]]
        for pair in self._pairs():
            where = (source >= 0) & (here == pair[0]) & (there == pair[1])
            tape = self._add_shared(tape, at, x, x_at, pair, where, keep=True)
        return tape

    def _add_link(self, links, source, program, gz, kind, linked):
        """The gradient `gz` added to what flows back to layer `source`, if anything did yet."""
        ids = jnp.asarray(self.shape_ids)
        here, there = ids[kind], ids[program["kind"][jnp.maximum(source, 0)]]
        at = jnp.maximum(source, 0) * self.slot
        keep = linked[jnp.maximum(source, 0)]
        for pair in self._pairs():
            where = (source >= 0) & (there == pair[0]) & (here == pair[1])
            links = self._add_shared(links, at, gz, 0, pair, where, keep=keep)
        return links


def _groups(sizes: list[int]) -> list[list[int]]:
    """Numbers of the kinds of each size, smallest size first."""
    return [
        [number for number, other in enumerate(sizes) if other == size]
        for size in sorted(set(sizes))
    ]


def _if(
    where: jax.Array, update: Callable[[jax.Array, jax.Array], jax.Array], buffer: jax.Array
) -> jax.Array:
    """`update(buffer, 0)` where true, else `buffer`, in place.

    The zero is the loop's counter. What `update` computes must depend on it, or XLA finds that the
    loop does not change it and computes it in any case, outside the loop.
    """
    return jax.lax.fori_loop(
        0, where.astype(jnp.int32), lambda zero, buffer: update(buffer, zero), buffer
    )


def _if_one_of(
    number: jax.Array,
    numbers: list[int],
    update: Callable[[jax.Array, jax.Array], jax.Array],
    buffer: jax.Array,
) -> jax.Array:
    """`update(buffer, place of number in numbers)` if it is there, else `buffer`, in place."""
    found = jnp.asarray(np.array(numbers, np.int32)) == number
    member = jnp.argmax(found).astype(jnp.int32)
    return _if(jnp.any(found), lambda buffer, zero: update(buffer, member + zero), buffer)
