"""The training step of a zoo as a program for devices that may be absent: shapes, and no arrays."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from probegen_jax.runs.experiment import Experiment
from probegen_jax.training.batch_order import lay_out
from probegen_jax.training.mesh import BATCHES, BY_NETWORK, BY_SEED, DATA, EVERYWHERE
from probegen_jax.training.programs import Programs


def trace(experiment: Experiment, mesh: Mesh, networks: int | None = None) -> Any:
    """Traces the program that training runs, with the whole zoo on the devices of a mesh.

    Args:
      experiment: set up for the platform of the mesh.
      networks: how many the zoo shall count as; what it holds stands for so many.
    """
    config, zoo = experiment.config, experiment.zoo
    programs = Programs(experiment.learner, mesh)
    layout = lay_out(zoo.splits, config.batch_size, zoo.costs())
    slots, held = layout.rows_BxM.shape
    factor = 1.0 if networks is None else networks / len(zoo)
    places, steps = (math.ceil(n * factor) for n in (held, layout.steps["train"]))
    devices = mesh.shape[DATA]
    rows = np.split(np.maximum(layout.rows_BxM, 0), devices)

    def described(shape: tuple[int, ...], dtype: Any, spec: P) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    def networks_of(part: Any) -> jax.ShapeDtypeStruct:
        length = math.ceil(part.shape[0] * places / held) * devices
        return described((length, *part.shape[1:]), part.dtype, BY_NETWORK)

    parts = zoo.shard([rows_BxM.ravel() for rows_BxM in rows], np.asarray)
    weights = jax.tree.map(networks_of, parts[0])
    keys_S = experiment.keys[0]
    state_S = jax.tree.map(
        lambda leaf: described(leaf.shape, leaf.dtype, BY_SEED),
        jax.eval_shape(programs.learner.init, keys_S),
    )
    seeds = len(experiment.seeds)
    return programs.run_steps.trace(
        state_S,
        described((seeds, steps), np.float32, BY_SEED),
        weights,
        described((slots * places,), zoo.targets_N.dtype, BY_NETWORK),
        described((seeds, steps, slots), np.int32, BATCHES),
        *[described((), np.int32, EVERYWHERE)] * 3,
    )


def flops(jaxpr: Any) -> int:
    """Operations of the matmuls and convolutions of a traced program, on each device.

    A loop of known length counts as often as it runs, any other once: training's own loop over
    steps is one. Of a choice, the dearest branch counts.
    """
    total = 0
    for equation in jaxpr.eqns:
        values = equation.params
        inner = [each for value in values.values() for each in _jaxprs(value)]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = values["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            depth = math.prod(shape[axis] for axis in contracted)
            total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            depth = math.prod(kernel) // kernel[values["dimension_numbers"].rhs_spec[0]]
            total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
        elif equation.primitive.name == "cond":
            total += max(map(flops, inner))
        else:
            total += values.get("length", 1) * sum(map(flops, inner))
    return total


def _jaxprs(value: Any) -> list[Any]:
    """Programs among an equation's parameters."""
    if isinstance(value, tuple | list):
        return [found for each in value for found in _jaxprs(each)]
    value = getattr(value, "jaxpr", value)
    return [value] if hasattr(value, "eqns") else []
