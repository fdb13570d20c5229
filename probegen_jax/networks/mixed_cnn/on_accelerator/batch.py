"""Mixed batches forwards and back, network by network."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probegen_jax.networks.maps import Reading, Reduce
from probegen_jax.networks.mixed_cnn.on_accelerator.uniform import Uniform

# Bytes of pre-activations that a batch may keep for the way back. If they are more, each network
# is run once more then.
TAPE_BYTES = 4 * 2**30


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def respond(
    form: Uniform,
    reduce: Reduce | None,
    weights: Any,
    probes: Float[Array, "chunks Q H W C"],
    queries: Float[Array, "B L V"] | None,
) -> tuple[Float[Array, "B chunks Q R"], Float[Array, "B chunks L Q K"] | None]:
    """Responses of every network of a batch to every probe, and what is read of maps if asked.

    Differentiable in the probes and the queries only; see `NetworkSpec.respond_with_maps`.
    """
    return _forward(form, reduce, weights, probes, queries, keep=False)[0]


def _forward(form, reduce, weights, probes, queries, keep):
    """Responses and what was read, and if asked the tape with all that the way back needs."""

    @jax.custom_batching.sequential_vmap
    def run(weights, probes, queries):
        turns, chunks = _turns(weights, probes), len(probes)

        def one(tape, number):
            network, chunk = number // chunks, probes[number % chunks]
            program, first = _of(network, weights["programs"]), number * form.max_layers
            reading = _reading(reduce, queries, network)
            *found, tape = form.forward(weights["tables"], program, chunk, tape, first, reading)
            return tape, tuple(found)

        tape = form.tape(len(turns), probes.shape[1]) if keep else None
        tape, found = jax.lax.scan(one, tape, turns)
        return jax.tree.map(lambda x: x.reshape(-1, chunks, *x.shape[1:]), found), tape

    return run(weights, probes, queries)


def _respond_forward(form, reduce, weights, probes, queries):
    values = len(_turns(weights, probes)) * form.max_layers * probes.shape[1] * math.prod(form.slot)
    keep = 4 * values <= TAPE_BYTES
    found, tape = _forward(form, reduce, weights, probes, queries, keep)
    return found, (weights, probes, queries, tape)


def _respond_backward(form, reduce, kept, g):
    @jax.custom_batching.sequential_vmap
    def run(weights, probes, queries, tape, g):
        tables, chunks = weights["tables"], len(probes)

        def one(totals, number):
            network, chunk = number // chunks, number % chunks
            program = _of(network, weights["programs"])
            g_responses, g_found = _of((network, chunk), g)
            reading = _reading(reduce, queries, network)
            if tape is None:
                mine, first = form.tape(1, probes.shape[1]), jnp.int32(0)
                mine = form.forward(tables, program, probes[chunk], mine, reading=reading)[-1]
            else:
                mine, first = tape, number * form.max_layers
            g_x, g_queries = form.backward(
                tables, program, g_responses, mine, first, reading, g_found
            )
            height, width, channels = probes.shape[2:]
            total, total_queries = totals
            total = total.at[chunk].add(g_x[:, :height, :width, :channels])
            if g_queries is not None:
                total_queries = total_queries.at[network].add(g_queries)
            return (total, total_queries), None

        nothing = jax.tree.map(jnp.zeros_like, (probes, queries))
        return jax.lax.scan(one, nothing, _turns(weights, probes))[0]

    return None, *run(*kept, g)


def _turns(weights: Any, probes: jax.Array) -> jax.Array:
    """A number for each network and chunk of probes."""
    return jnp.arange(weights["programs"]["depth"].shape[0] * len(probes), dtype=jnp.int32)


def _of(place: Any, stacked: Any) -> Any:
    """What lies at a place of stacked arrays."""
    return jax.tree.map(lambda leaf: leaf[place], stacked)


def _reading(reduce: Reduce | None, queries: Any, network: jax.Array) -> Reading | None:
    return None if reduce is None else Reading(reduce, queries[network])


respond.defvjp(_respond_forward, _respond_backward)
