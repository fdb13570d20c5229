"""How parameters are changed in training: rates, decay, averages. By default, the paper's Adam."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from probegen_jax.method.tasks import Loss, smoothed_cross_entropy


class Factors(NamedTuple):
    """Of each parameter: its learning rate, relative to the whole's, and its decay; trees alike."""

    rate: Any
    decay: Any


class Plateau(NamedTuple):
    """The state of a learning rate that falls where validation gets no better; whole numbers.

    Attributes:
      count: steps.
      reductions: how often it has fallen.
      waited: validations since the last that was better than all before, or since it fell.
    """

    count: Any
    reductions: Any
    waited: Any


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
    probe_weight_decay: float = 0.0
    label_smoothing: float = 0.0
    rank_loss: float = 0.0
    ema: float = 0.0
    schedule: str = "cosine"
    warmup_steps: int = 0
    plateau_factor: float = 0.5
    plateau_patience: int = 4
    learning_rate_floor: float = 1e-6

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
        """Adam (β 0.9, 0.999; ε 1e-8), its learning rate as `schedule` says.

        A cosine is 0 after `total_steps`. On a plateau, `after_validation` is to be told.
        Where `factors` is not None, its `update` takes such as a keyword argument.
        """
        parts = [optax.scale_by_adam()]
        if self.by_parameter:
            parts.append(_by_parameter())
        if self.follows_validation:
            parts.append(self._on_plateau())
        else:
            cosine = optax.cosine_decay_schedule(self.learning_rate, total_steps)
            warm = self._warmed(cosine) if self.warmup_steps else cosine
            parts.append(optax.scale_by_learning_rate(warm))
        if self.ema:
            parts.append(_average(self.ema))
        return optax.chain(*parts)

    @property
    def follows_validation(self) -> bool:
        """Whether steps depend on the validations before them."""
        return self.schedule == "plateau"

    def _warmed(self, rate: optax.Schedule) -> optax.Schedule:
        """A learning rate that rises in equal steps from 0 to what it would be."""
        return lambda count: rate(count) * jnp.minimum(1, (count + 1) / max(1, self.warmup_steps))

    def _on_plateau(self) -> optax.GradientTransformation:
        def init(params):
            return Plateau(*(jnp.zeros((), jnp.int32) for _ in Plateau._fields))

        def update(updates, state, params=None):
            rate = self._rate_on_plateau(state)
            updates = jax.tree.map(lambda update: -rate * update, updates)
            return updates, state._replace(count=state.count + 1)

        return optax.GradientTransformation(init, update)

    def _rate_on_plateau(self, state: Plateau) -> Array:
        reduced = self.learning_rate * self.plateau_factor ** state.reductions.astype("float32")
        rate = self._warmed(lambda _: jnp.maximum(reduced, self.learning_rate_floor))
        return rate(state.count)

    def last_rate(self, opt_state: Any) -> Float[Array, "*S"]:
        """The learning rate of the last step, where it follows validation."""
        (state,) = (part for part in opt_state if isinstance(part, Plateau))
        with jax.numpy_dtype_promotion("standard"):  # of the integer step count
            return self._rate_on_plateau(state._replace(count=state.count - 1))

    @property
    def by_parameter(self) -> bool:
        """Whether parameters are changed by rules of their own, so that `factors` are needed."""
        decays = self.weight_decay > 0 or self.probe_weight_decay > 0
        return decays or self.probe_learning_rate is not None

    def factors(self, params: Mapping[str, Any]) -> Factors:
        """The factors of a seed's parameters, as numbers.

        Kernels of the head decay, which are its arrays of two axes and more; and all that makes
        probes, with a decay of its own.
        """
        rates = dict.fromkeys(params, 1.0)
        if self.probe_learning_rate is not None:
            rates["generator"] = self.probe_learning_rate / self.learning_rate

        def decay(name: str, ndim: int) -> float:
            of_head = self.weight_decay if ndim > 1 else 0.0
            return {"head": of_head, "generator": self.probe_weight_decay}.get(name, 0.0)

        def of_part(name: str, value: Any) -> Factors:
            return Factors(
                jax.tree.map(lambda _: rates[name], value),
                jax.tree.map(lambda leaf: decay(name, leaf.ndim), value),
            )

        parts = {name: of_part(name, value) for name, value in params.items()}
        return Factors(*({name: part[i] for name, part in parts.items()} for i in range(2)))


def after_validation(recipe: Recipe, opt_state: Any, better: Bool[Array, "*S"]) -> Any:
    """An optimiser's state, once it is known whether validation was better than ever before.

    The learning rate falls when it was not in more than `plateau_patience` validations in a row.
    """

    def one(part: Any) -> Any:
        if not isinstance(part, Plateau):
            return part
        waited = jnp.where(better, 0, part.waited + 1)
        falls = waited > recipe.plateau_patience
        reductions = part.reductions + falls.astype(jnp.int32)
        return part._replace(reductions=reductions, waited=jnp.where(falls, 0, waited))

    return tuple(map(one, opt_state))


def averaged(params: Any, opt_state: Any) -> Any:
    """The average of parameters that an optimiser's state holds; `params` where it holds none."""
    return opt_state[-1].average if isinstance(opt_state[-1], Average) else params


def _by_parameter() -> optax.GradientTransformationExtraArgs:
    """Adds decay to updates, and scales them."""

    def update(updates, state, params, *, factors, **_):
        def one(update, param, rate, decay):
            return rate * (update + decay * param)

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
