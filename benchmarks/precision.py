"""What the precisions of an accelerator's matrix units change, emulated on a CPU.

    python -m benchmarks.precision                      the golden cases
    python -m benchmarks.precision --digits --seeds=3   also the built-in zoo, trained at each

A precision is a way to round what matmuls and convolutions multiply, forwards and back; sums stay
float32. `tf32` is a GPU's `default` and `high` (10 bits of mantissa), `bf16` a TPU's `default` (7
bits), `bf16x3` a TPU's `high`: three products of numbers split in two. `highest` is float32. Order
of sums and everything between matmuls are the CPU's, so this shows the effect of rounding alone.
"""

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from benchmarks import REPO

sys.path[:0] = [str(REPO), str(REPO / "tests"), str(REPO / "tests" / "method")]

PRECISIONS = ("highest", "bf16x3", "tf32", "bf16")
_PRODUCTS = ("dot_general", "conv_general_dilated")


def rounded(x: jax.Array, bits: int) -> jax.Array:
    """To so many bits of mantissa, ties to even."""
    whole = jax.lax.bitcast_convert_type(x, jnp.uint32)
    dropped = 23 - bits
    odd = (whole >> dropped) & 1
    whole = (whole + jnp.uint32(2 ** (dropped - 1) - 1) + odd) & jnp.uint32(2**32 - 2**dropped)
    return jax.lax.bitcast_convert_type(whole, jnp.float32)


def product(multiply: Callable[..., Any], precision: str, a: jax.Array, b: jax.Array) -> Any:
    """A bilinear operation as a matrix unit does it."""
    if precision == "highest" or a.dtype != jnp.float32:
        return multiply(a, b)
    if precision != "bf16x3":
        bits = {"tf32": 10, "bf16": 7}[precision]
        return multiply(rounded(a, bits), rounded(b, bits))
    high_a, high_b = rounded(a, 7), rounded(b, 7)
    low_a, low_b = rounded(a - high_a, 7), rounded(b - high_b, 7)
    return multiply(high_a, low_b) + multiply(low_a, high_b) + multiply(high_a, high_b)


def emulated(function: Callable[..., Any], precision: str) -> Callable[..., Any]:
    """`function`, with its matmuls and convolutions at a precision; it must not loop over them."""

    def run(*args):
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        out = _run(closed.jaxpr, closed.consts, jax.tree.leaves(args), precision)
        return jax.tree.unflatten(jax.tree.structure(shape), out)

    return jax.jit(run)


def _run(jaxpr: Any, consts: Any, args: Any, precision: str) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom):
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        name, inputs = equation.primitive.name, [read(atom) for atom in equation.invars]
        bind = functools.partial(equation.primitive.bind, **equation.params)
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        if name in ("scan", "while", "cond"):
            raise ValueError(f"cannot emulate what a {name} multiplies")
        if name in _PRODUCTS:
            outputs = [product(bind, precision, *inputs)]
        elif inner is not None:  # a call
            closed = inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
            outputs = _run(closed.jaxpr, closed.consts, inputs, precision)
        else:
            outputs = bind(*inputs)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def golden(precision: str) -> dict[str, dict[str, float]]:
    """Largest relative differences from the official code's figures, for each golden case."""
    import test_golden as cases

    found = {}
    for case in ("inr_deep_linear", "inr_vanilla"):
        parts, weights = cases.load(case)
        expected, learner = parts["expected"], cases.make_learner(case)
        state = cases.fresh_state(learner, cases.parameters.from_official(parts["initial"]))
        outputs = emulated(lambda p, w, learner=learner: learner.outputs(p, {}, w), precision)
        first = cases.relative_error(outputs(state.params, weights), expected["predictions"])

        def update(state, *batch, learner=learner):
            return learner.improve(state, learner.sums(state, *batch))

        update = emulated(update, precision)
        half, losses = len(expected["target"]) // 2, []
        for step in range(cases.STEPS):
            rows = jnp.arange(half) + (step % 2) * half
            targets = jnp.asarray(expected["target"][rows], jnp.int32)
            batch = cases.SPEC.take(weights, rows)
            state, loss = update(state, batch, targets, jnp.ones(half, bool))
            losses.append(loss)
        found[case] = {
            "outputs": first,
            "losses of 20 steps": cases.relative_error(losses, expected["train_losses"]),
        }
    return found


def trained_digits(precision: str, seeds: int, epochs: int) -> dict[str, float]:
    """Test accuracy on the built-in zoo of digits, mean and spread over seeds."""
    from configs import digits as config_file
    from probegen_jax.method.tasks import accuracy
    from probegen_jax.runs.experiment import set_up

    config = config_file.get_config()
    config.num_epochs = epochs
    experiment = set_up(config)
    zoo, learner = experiment.zoo, experiment.learner
    train = zoo.splits["train"]
    weights, targets_N = jax.tree.map(jnp.asarray, zoo.weights), jnp.asarray(zoo.targets_N)

    def update(state_S, rows_SxB):
        def one(state, rows_B):
            batch = learner.take(weights, rows_B), targets_N[rows_B]
            return learner.improve(state, learner.sums(state, *batch, jnp.ones(rows_B.shape, bool)))

        return jax.vmap(one)(state_S, rows_SxB)

    update = emulated(update, precision)
    keys_S = jax.random.split(jax.random.key(0), seeds)
    state_S, rng = jax.jit(learner.init)(keys_S), np.random.default_rng(0)
    steps = len(train) // config.batch_size
    for _ in range(epochs):
        orders = np.stack([rng.permutation(train) for _ in range(seeds)])
        for step in range(steps):
            rows = orders[:, step * config.batch_size : (step + 1) * config.batch_size]
            state_S, _ = update(state_S, jnp.asarray(rows, jnp.int32))
    test = zoo.splits["test"]
    chosen = learner.take(weights, jnp.asarray(test, jnp.int32))
    outputs = emulated(jax.vmap(lambda p, f: learner.outputs(p, f, chosen)), precision)
    outputs_S = np.asarray(outputs(state_S.params, state_S.fixed))
    scores = [accuracy(outputs_NxO, zoo.targets_N[test]) for outputs_NxO in outputs_S]
    return {"mean": statistics.fmean(scores), "std": statistics.stdev(scores)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--digits", action="store_true", help="also train on the built-in zoo")
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    for precision in PRECISIONS:
        found = {"precision": precision, "golden": golden(precision)}
        if options.digits:
            found["digits"] = trained_digits(precision, options.seeds, options.epochs)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
