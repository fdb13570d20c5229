"""From a config and a zoo to what is trained."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from probegen_jax import settings
from probegen_jax.errors import UserError
from probegen_jax.method.generators import registry
from probegen_jax.method.learning import Learner
from probegen_jax.method.model import make_model
from probegen_jax.method.moves import Reach
from probegen_jax.method.readouts.registry import name_in, readout
from probegen_jax.method.recipe import Recipe
from probegen_jax.method.tasks import TASKS
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.training.boundaries import Schedule
from probegen_jax.training.evaluation import Evaluation
from probegen_jax.zoo.zoo import Zoo


def probe_images(config: ConfigDict, spec: NetworkSpec) -> Float[np.ndarray, "N h w C"] | None:
    """The images that the method's probes are taken from; None where it needs none."""
    generator = registry.entry(config.method, spec.probe_shape).generator
    return generator.needed_images(config.to_dict(), spec)


def make_learner(
    config: ConfigDict,
    zoo: Zoo,
    images: Float[np.ndarray, "N H W C"] | None,
    platform: str = "cpu",
) -> Learner:
    """The learner of a config for a zoo; `images` as `probe_images` gives them.

    Of the platform it tells generator and readout; the zoo's spec has been told.
    """
    values, spec, num_outputs = config.to_dict(), zoo.spec, zoo.num_outputs
    recipe = Recipe.of(values)
    dropout = any(values.get(key, 0.0) > 0 for key in ("dropout", "probe_dropout"))
    noisy = dropout or bool(Reach.of(values))
    if values.get("test_views") and not Reach.of(values):
        raise UserError(
            f"test_views is {values['test_views']}, but nothing says how networks are moved; set "
            "an augment_… too, or use --config.test_views=0"
        )
    if not registry.entry(config.method, spec.probe_shape).trained:
        for key in ("probe_dropout", "probe_weight_decay"):
            if values.get(key):
                raise UserError(
                    f"{key} is {values[key]}, but the probes of method {config.method!r} are not "
                    f"trained; use --config.{key}=0"
                )
    optimizer = recipe.optimizer(schedule_of(config, zoo).total_steps)
    loss = recipe.loss(TASKS[zoo.task].loss)

    kind = readout(name_in(config), zoo.spec)
    in_turn = kind.in_turn_on_cpu and platform == "cpu" and config.num_seeds > 1

    def learner(prepare: Callable[[Any], None] = lambda head: None) -> Learner:
        def model_from(key: Key[Array, ""]) -> nnx.Module:  # not to hold on to the zoo's weights
            rngs = nnx.Rngs(params=key)
            model = make_model(
                spec, values, num_outputs, images=images, rngs=rngs, platform=platform
            )
            prepare(model.head)
            return model

        return Learner(
            model_from, spec, loss, optimizer, recipe=recipe, noisy=noisy, seeds_in_turn=in_turn
        )

    if not kind.standardises:
        return learner()
    spread = kind.spread(weight_values(learner(), config, zoo, zoo.splits["train"]))
    return learner(lambda head: head.standardise(*spread))


def weight_values(
    learner: Learner, config: ConfigDict, zoo: Zoo, rows_N: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "N V"]:
    """What a readout of weights reads of networks of the zoo."""
    state_S = jax.jit(learner.init)(jax.random.split(jax.random.key(0), 1))
    mode = settings.nested(config, "data.mode", "auto")
    return Evaluation(learner, zoo, config.batch_size, mode).responses(state_S, rows_N)[0, :, 0]


def schedule_of(config: ConfigDict, zoo: Zoo) -> Schedule:
    """What happens at which step; what is fitted at once takes one."""
    if readout(name_in(config), zoo.spec).fitted:
        return Schedule(1, 1, 1, 1)
    sizes = len(zoo.splits["train"]), config.batch_size, config.num_epochs
    return Schedule.of(*sizes, config.eval_every, config.checkpoint_every)
