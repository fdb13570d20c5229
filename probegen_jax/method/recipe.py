"""How parameters are changed in training: rates, decay, averages. By default, the paper's Adam."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from probegen_jax.method.tasks import Loss, smoothed_cross_entropy


class Factors(NamedTuple):
    """Of each parameter: its learning rate and its decay, relative to the whole's; trees alike."""

    rate: Any
    decay: Any


class Average(NamedTuple):
    """The state of an average of parameters over steps."""

    average: Any
    count: Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a config says of the optimiser, by the names of its keys; see settings.md."""

    learning_rate: float
    probe_learning_rate: float | None = None
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Recipe":
        """That of a config as a dict; keys that an earlier version did not have may be missing."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: settings[name] for name in names if name in settings})

    def loss(self, loss: Loss) -> Loss:
        """A task's loss, with what the recipe adds to it."""
        if not self.label_smoothing:
            return loss
        return functools.partial(smoothed_cross_entropy, smoothing=self.label_smoothing)

    def optimizer(self, total_steps: int) -> optax.GradientTransformationExtraArgs:
        """Adam (β 0.9, 0.999; ε 1e-8), its learning rate along a cosine to 0 in `total_steps`.

        Where `factors` is not None, its `update` takes such as a keyword argument.
        """
        parts = [optax.scale_by_adam()]
        if self.by_parameter:
            parts.append(_by_parameter(self.weight_decay))
        schedule = optax.cosine_decay_schedule(self.learning_rate, total_steps)
        parts.append(optax.scale_by_learning_rate(schedule))
        if self.ema:
            parts.append(_average(self.ema))
        return optax.chain(*parts)

    @property
    def by_parameter(self) -> bool:
        """Whether parameters are changed by rules of their own, so that `factors` are needed."""
        return self.probe_learning_rate is not None or self.weight_decay > 0

    def factors(self, params: Mapping[str, Any]) -> Factors:
        """The factors of a seed's parameters, as numbers.

        Kernels of the head decay, which are its arrays of two axes and more.
        """
        rates = dict.fromkeys(params, 1.0)
        if self.probe_learning_rate is not None:
            rates["generator"] = self.probe_learning_rate / self.learning_rate

        def of_part(name: str, value: Any) -> Factors:
            return Factors(
                jax.tree.map(lambda _: rates[name], value),
                jax.tree.map(lambda leaf: float(name == "head" and leaf.ndim > 1), value),
            )

        parts = {name: of_part(name, value) for name, value in params.items()}
        return Factors(*({name: part[i] for name, part in parts.items()} for i in range(2)))


def averaged(params: Any, opt_state: Any) -> Any:
    """The average of parameters that an optimiser's state holds; `params` where it holds none."""
    return opt_state[-1].average if isinstance(opt_state[-1], Average) else params


def _by_parameter(decay: float) -> optax.GradientTransformationExtraArgs:
    """Adds decay to updates, and scales them."""

    def update(updates, state, params, *, factors, **_):
        def one(update, param, rate, own_decay):
            return rate * (update + decay * own_decay * param)

        return jax.tree.map(one, updates, params, *factors), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _average(decay: float) -> optax.GradientTransformation:
    """Keeps an exponential average of parameters, which changes no update.

    In the t-th step it decays by (1 + t)/(10 + t) while that is less: so the start is forgotten.
    """

    def init(params):
        return Average(jax.tree.map(jnp.asarray, params), jnp.zeros((), jnp.int32))

    def update(updates, state, params):
        count: Float[Array, ""] = state.count.astype(jnp.float32)
        kept = jnp.minimum(decay, (1 + count) / (10 + count))

        def one(average, param, update):
            return kept * average + (1 - kept) * (param + update)

        average = jax.tree.map(one, state.average, params, updates)
        return updates, Average(average, state.count + 1)

    return optax.GradientTransformation(init, update)
