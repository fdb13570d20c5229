"""Mixed batches forwards and back: which pre-activations are kept, and where."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probegen_jax.networks.maps import Reading, Reduce
from probegen_jax.networks.mixed_cnn.on_cpu.interpreter import Interpreter


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def respond(
    interpreter: Interpreter,
    tape_size: int,
    reduce: Reduce | None,
    weights: Any,
    probes: Float[Array, "chunks values"],
    queries: Float[Array, "B L V"] | None,
) -> tuple[Float[Array, "B C Q R"], Float[Array, "B C L Q K"] | None]:
    """Responses of every network of a batch to every probe, and what is read of maps if asked.

    Differentiable in the probes and the queries only; see `WithMaps.respond_with_maps`.

    Args:
      interpreter: for chunks of Q probes.
      tape_size: floats per probe and network that may be kept for the way back, on average; what
        does not fit is run once more then.
      weights: tables and programs of a mixed zoo.
      probes: C chunks, each flat: K = Q·height·width·channels.
    """

    @jax.custom_batching.sequential_vmap
    def run(weights, probes, queries):
        programs = weights["programs"]
        at = jnp.zeros((interpreter.max_layers,), jnp.int32)

        def network(buffers, program_and_queries):
            program, queries_LxQ = program_and_queries
            reading = _reading(reduce, queries_LxQ)

            def one_chunk(buffers, probes):
                tables = weights["tables"]
                buffers, *found = interpreter.forward(tables, program, probes, at, buffers, reading)
                return buffers, tuple(found)

            return jax.lax.scan(one_chunk, buffers, probes)

        tape = jnp.zeros((interpreter.slot,), jnp.float32)  # one layer at a time
        return jax.lax.scan(network, (tape, interpreter.inputs()), (programs, queries))[1]

    return run(weights, probes, queries)


def _reading(reduce: Reduce | None, queries: Any) -> Reading | None:
    return None if reduce is None else Reading(reduce, queries)


def _plan(
    interpreter: Interpreter, tape_size: int, programs: Any, chunks: int
) -> tuple[int, dict[str, jax.Array]]:
    """Where on the tape networks, chunks and layers lie.

    Returns:
      The tape's length; `fits` (B,), whether a network is on it; `start` (B,); `step` (B,) from one
      chunk to the next; `offsets` (B, L) of layers.
    """
    batch = programs["depth"].shape[0]
    volumes_BxL = interpreter.volumes(programs)
    volumes_B = jnp.sum(volumes_BxL, axis=1, dtype=jnp.int32)
    probes = chunks * interpreter.chunk
    # For networks that do not fit: layer after layer of one chunk. Positions are int32.
    scratch = interpreter.max_layers * interpreter.slot
    layers = jnp.arange(interpreter.max_layers, dtype=jnp.int32) * interpreter.slot
    capacity = min(batch * tape_size, (2**31 - 1 - scratch) // probes)
    ends_B = jnp.cumsum(volumes_B, dtype=jnp.int32)
    fits_B = ends_B <= capacity
    plan = {
        "fits": fits_B,
        "start": jnp.where(fits_B, (ends_B - volumes_B) * probes, capacity * probes),
        "step": jnp.where(fits_B, volumes_B * interpreter.chunk, 0),
        "offsets": jnp.where(
            fits_B[:, None],
            (jnp.cumsum(volumes_BxL, axis=1, dtype=jnp.int32) - volumes_BxL) * interpreter.chunk,
            layers,
        ),
    }
    return capacity * probes + scratch, plan


def _respond_forward(interpreter, tape_size, reduce, weights, probes, queries):
    @jax.custom_batching.sequential_vmap
    def run(weights, probes, queries):
        programs = weights["programs"]
        length, plan_B = _plan(interpreter, tape_size, programs, probes.shape[0])

        def network(buffers, one):
            program, plan, queries_LxQ = one
            reading = _reading(reduce, queries_LxQ)

            def one_chunk(buffers, number_and_probes):
                number, probes = number_and_probes
                at = plan["start"] + number * plan["step"] + plan["offsets"]
                tables = weights["tables"]
                buffers, *found = interpreter.forward(tables, program, probes, at, buffers, reading)
                return buffers, tuple(found)

            numbers = jnp.arange(probes.shape[0], dtype=jnp.int32)
            return jax.lax.scan(one_chunk, buffers, (numbers, probes))

        buffers = (jnp.zeros((length,), jnp.float32), interpreter.inputs())
        (tape, _), found = jax.lax.scan(network, buffers, (programs, plan_B, queries))
        return found, tape

    found, tape = run(weights, probes, queries)
    return found, (weights, probes, queries, tape)


def _respond_backward(interpreter, tape_size, reduce, kept, g):
    @jax.custom_batching.sequential_vmap
    def run(weights, probes, queries, tape, g):
        programs, tables = weights["programs"], weights["tables"]
        _, plan_B = _plan(interpreter, tape_size, programs, probes.shape[0])

        def network(carry, one):
            program, plan, queries_LxQ, g = one
            reading = _reading(reduce, queries_LxQ)

            def one_chunk(number, carry):
                (total, kept, gradients), g_queries = carry
                at = plan["start"] + number * plan["step"] + plan["offsets"]
                kept = jax.lax.fori_loop(
                    0,
                    1 - plan["fits"].astype(jnp.int32),
                    lambda zero, kept: interpreter.forward(
                        tables, program, probes[number + zero], at, kept
                    )[0],
                    kept,
                )
                g_responses, g_found = jax.tree.map(lambda leaf: leaf[number], g)
                gradients, gradient, g_more = interpreter.backward(
                    tables, program, g_responses, kept[0], at, gradients, reading, g_found
                )
                g_queries = jax.tree.map(jnp.add, g_queries, g_more)
                return (total.at[number].add(gradient), kept, gradients), g_queries

            carry = (carry, jax.tree.map(jnp.zeros_like, queries_LxQ))
            return jax.lax.fori_loop(0, probes.shape[0], one_chunk, carry)

        gradients = interpreter.gradients(reduce is not None)
        carry = (jnp.zeros_like(probes), (tape, interpreter.inputs()), gradients)
        steps = (programs, plan_B, queries, g)
        (total, *_), g_queries = jax.lax.scan(network, carry, steps)
        return total, g_queries

    weights, probes, queries, tape = kept
    return None, *run(weights, probes, queries, tape, g)


respond.defvjp(_respond_forward, _respond_backward)
