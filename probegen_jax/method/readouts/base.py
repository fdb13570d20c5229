"""The base class of readouts, and the sizes that one is made from."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from probegen_jax.method.tasks import Scale
from probegen_jax.networks.contract import NetworkSpec


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a readout is made from, beside the networks that it reads.

    Attributes:
      width: of the hidden layers of its MLP.
      depth: linear layers of its MLP, at least 1.
      outputs: classes, or 1 for a value.
      dropout: share of the hidden values of its MLP that a training step drops.
    """

    num_probes: int
    width: int
    depth: int
    outputs: int
    dropout: float = 0.0


class Readout(nnx.Module):
    """Predicts from what networks answer; what is trained of it are its `nnx.Param`s.

    One with dropout holds a `Dropout` if its `Sizes` ask for it, and is then called with a second
    argument in training: the `Noise` of the step.

    Attributes:
      answers_once: whether what it reads of a network follows from the probes alone, so that it is
        computed only once where these do not change.
      reads_weights: whether it reads networks' weights, and needs no probes.
      standardises: whether it has `spread` and `standardise`, see `weights.Flat`.
      in_turn_on_cpu: whether seeds train faster one after another on a CPU, since what it computes
        of one fits the cache, and of several does not.
      fitted: whether its class has `fit`, which finds its parameters at once, see
        `trees.StatisticsTrees`.
      platform: of the devices that it runs on, see `networks.contract.Options`; set once it is
        made.
    """

    platform = "cpu"
    answers_once: ClassVar[bool] = True
    reads_weights: ClassVar[bool] = False
    standardises: ClassVar[bool] = False
    in_turn_on_cpu: ClassVar[bool] = False
    fitted: ClassVar[bool] = False

    @classmethod
    def for_networks(cls, spec: NetworkSpec) -> type["Readout"]:
        """The class that reads such networks under the same name; here, this one."""
        return cls

    @classmethod
    @abc.abstractmethod
    def make(cls, spec: NetworkSpec, sizes: Sizes, *, rngs: nnx.Rngs) -> "Readout":
        """A fresh one for such networks, drawn from `rngs.params`.

        Raises:
          UserError: it cannot read such networks.
        """

    @staticmethod
    def answers(
        spec: NetworkSpec, weights: Any, probes: Float[Array, "P ..."]
    ) -> Float[Array, "B P A"]:
        """What it reads of each network of a batch: A values a probe; here, the responses."""
        return spec.respond(weights, probes)

    @classmethod
    def num_values(cls, spec: NetworkSpec, sizes: Sizes) -> int:
        """At least how many values it reads of one network."""
        return sizes.num_probes * spec.response_dim

    @staticmethod
    @abc.abstractmethod
    def last_layer(params: Mapping[str, Any]) -> tuple[str | int, ...]:
        """Where in its parameters, a pure dict, the linear layer lies that makes the outputs."""

    @classmethod
    def predicting_values(cls, params: Mapping[str, Any], scale: Scale) -> dict[str, Any]:
        """Its parameters, changed so that outputs are values in the targets' own unit.

        Args:
          params: as a pure dict, maybe with a seed axis.
          scale: in which it has learnt.
        """

        def changed(inner: Mapping[Any, Any], path: tuple[str | int, ...]) -> dict[Any, Any]:
            if path:
                return {**inner, path[0]: changed(inner[path[0]], path[1:])}
            kernel, bias = (np.asarray(inner[name], np.float64) for name in ("kernel", "bias"))
            arrays = {"kernel": kernel * scale.std, "bias": scale.values(bias)}
            return {name: array.astype(np.float32) for name, array in arrays.items()}

        return changed(params, cls.last_layer(params))

    @abc.abstractmethod
    def __call__(self, answers: Float[Array, "B P A"]) -> Float[Array, "B O"]:
        """Logits, or a value, for each network."""
