"""Mixed batches forwards and back, network by network."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probegen_jax.networks.mixed_cnn.on_accelerator.uniform import Uniform

# Bytes of pre-activations that a batch may keep for the way back. If they are more, each network
# is run once more then.
TAPE_BYTES = 4 * 2**30


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def respond(
    form: Uniform, weights: Any, probes: Float[Array, "chunks Q H W C"]
) -> Float[Array, "B chunks Q R"]:
    """Responses of every network of a batch to every probe; differentiable in the probes only."""
    return _forward(form, weights, probes, keep=False)[0]


def _forward(form, weights, probes, keep):
    """Responses, and if asked the tape with all that the way back needs."""

    @jax.custom_batching.sequential_vmap
    def run(weights, probes):
        turns, chunks = _turns(weights, probes), len(probes)

        def one(tape, number):
            program, chunk = _program(weights, number // chunks), probes[number % chunks]
            first = number * form.max_layers
            response, tape = form.forward(weights["tables"], program, chunk, tape, first)
            return tape, response

        tape = form.tape(len(turns), probes.shape[1]) if keep else None
        tape, responses = jax.lax.scan(one, tape, turns)
        return responses.reshape(-1, chunks, *responses.shape[1:]), tape

    return run(weights, probes)


def _respond_forward(form, weights, probes):
    values = len(_turns(weights, probes)) * form.max_layers * probes.shape[1] * math.prod(form.slot)
    responses, tape = _forward(form, weights, probes, keep=4 * values <= TAPE_BYTES)
    return responses, (weights, probes, tape)


def _respond_backward(form, kept, g):
    @jax.custom_batching.sequential_vmap
    def run(weights, probes, tape, g_BxCxQxR):
        tables, chunks = weights["tables"], len(probes)

        def one(total, number):
            network, chunk = number // chunks, number % chunks
            program, g_QxR = _program(weights, network), g_BxCxQxR[network, chunk]
            if tape is None:
                mine, first = form.tape(1, probes.shape[1]), jnp.int32(0)
                mine = form.forward(tables, program, probes[chunk], mine)[1]
            else:
                mine, first = tape, number * form.max_layers
            g_x = form.backward(tables, program, g_QxR, mine, first)
            height, width, channels = probes.shape[2:]
            return total.at[chunk].add(g_x[:, :height, :width, :channels]), None

        return jax.lax.scan(one, jnp.zeros_like(probes), _turns(weights, probes))[0]

    weights, probes, tape = kept
    return None, run(weights, probes, tape, g)


def _turns(weights: Any, probes: jax.Array) -> jax.Array:
    """A number for each network and chunk of probes."""
    return jnp.arange(weights["programs"]["depth"].shape[0] * len(probes), dtype=jnp.int32)


def _program(weights: Any, network: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[network], weights["programs"])


respond.defvjp(_respond_forward, _respond_backward)
