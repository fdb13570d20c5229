"""Gradient-boosted trees over statistics of weights (Unterthiner et al., 2020).

scikit-learn fits them, at once and not by steps. They are then arrays, which run as any other
readout does.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Num

from probegen_jax.errors import UserError
from probegen_jax.method.readouts.base import Readout, Sizes
from probegen_jax.method.readouts.weights import Statistics
from probegen_jax.networks.contract import NetworkSpec

# scikit-learn's own defaults.
ROUNDS, LEAVES, RATE = 100, 31, 0.1
_NODES = 2 * LEAVES - 1
_NEVER = -30.0  # the logit of a class that no training network has


class StatisticsTrees(Readout):
    """The sum of many small decision trees: of each output `ROUNDS`, which `fit` finds.

    All numbers are float32, as those of parameters: a node compares the value at `feature` with
    `threshold`, and goes on at `left` if it is not above, else at `right`. A leaf goes on at
    itself.
    """

    reads_weights: ClassVar[bool] = True
    fitted: ClassVar[bool] = True

    def __init__(self, outputs: int):
        self.nodes = nnx.Dict(
            {
                name: nnx.Param(jnp.zeros((ROUNDS * outputs, _NODES)))
                for name in ("feature", "threshold", "left", "right", "value")
            }
        )
        self.last = nnx.Dict(kernel=nnx.Param(jnp.eye(outputs)), bias=nnx.Param(jnp.zeros(outputs)))

    @classmethod
    def make(cls, spec: NetworkSpec, sizes: Sizes, *, rngs: nnx.Rngs) -> "StatisticsTrees":
        del rngs  # nothing is drawn
        return cls(sizes.outputs)

    answers = staticmethod(Statistics.answers)

    @classmethod
    def num_values(cls, spec: NetworkSpec, sizes: Sizes) -> int:
        return Statistics.num_values(spec, sizes)

    @staticmethod
    def last_layer(params: Mapping[str, Any]) -> tuple[str | int, ...]:
        return ("last",)

    def __call__(self, answers: Float[Array, "B 1 V"]) -> Float[Array, "B O"]:
        x_BxV = answers[:, 0]
        nodes = {name: leaf[...].reshape(-1) for name, leaf in self.nodes.items()}
        trees = self.nodes["value"].shape[0]
        starts_T = _NODES * jnp.arange(trees, dtype=jnp.int32)

        def down(_, at_BxT):
            values_BxT = jnp.take_along_axis(x_BxV, nodes["feature"][at_BxT].astype(jnp.int32), 1)
            goes_left = values_BxT <= nodes["threshold"][at_BxT]
            following = jnp.where(goes_left, nodes["left"][at_BxT], nodes["right"][at_BxT])
            return starts_T[None] + following.astype(jnp.int32)

        at_BxT = jnp.broadcast_to(starts_T[None], (x_BxV.shape[0], trees))
        at_BxT = jax.lax.fori_loop(0, LEAVES - 1, down, at_BxT)  # as deep as a tree can be
        values_BxRxO = nodes["value"][at_BxT].reshape(x_BxV.shape[0], ROUNDS, -1)
        return values_BxRxO.sum(axis=1) @ self.last["kernel"][...] + self.last["bias"][...][None]

    @classmethod
    def fit(
        cls, values_NxV: Float[np.ndarray, "N V"], targets_N: Num[np.ndarray, "N ..."], outputs: int
    ) -> dict[str, Any]:
        """The parameters, as a pure dict, that fit the training networks; no chance is in it.

        Raises:
          UserError: more than one target a network.
        """
        import threadpoolctl
        from sklearn.ensemble import (  # a second to import
            HistGradientBoostingClassifier,
            HistGradientBoostingRegressor,
        )

        if np.ndim(targets_N) != 1:
            raise UserError(
                "trees predict one target of a network, and this zoo's have several; use "
                "--config.statnn_head=mlp"
            )
        kind = HistGradientBoostingRegressor if outputs == 1 else HistGradientBoostingClassifier
        model = kind(
            learning_rate=RATE, max_iter=ROUNDS, max_leaf_nodes=LEAVES, early_stopping=False
        )
        # scikit-learn's threads wait for each other at every node of a tree. If another program has
        # one of their cores, that takes forty times as long as one thread does.
        with threadpoolctl.threadpool_limits(1):
            model.fit(values_NxV, targets_N)
        # Where each series of trees goes: of two classes there is one, for the second.
        classes = [0] if outputs == 1 else model.classes_.tolist()
        columns = classes[1:] if len(classes) == 2 else classes
        bias = np.where(np.isin(np.arange(outputs), classes), 0, _NEVER).astype(np.float32)
        bias[columns] = np.ravel(model._baseline_prediction)
        shape = (ROUNDS, outputs, _NODES)
        nodes = {name: np.zeros(shape, np.float32) for name in ("threshold", "feature", "value")}
        nodes["left"] = np.broadcast_to(np.arange(_NODES, dtype=np.float32), shape).copy()
        nodes["right"] = nodes["left"].copy()
        for round_, series in enumerate(model._predictors):
            for column, tree in zip(columns, series, strict=True):
                place, inner = (round_, column), np.flatnonzero(tree.nodes["is_leaf"] == 0)
                nodes["value"][place][: len(tree.nodes)] = tree.nodes["value"]
                for name, theirs in (
                    ("feature", "feature_idx"),
                    ("left", "left"),
                    ("right", "right"),
                ):
                    nodes[name][place][inner] = tree.nodes[theirs][inner]
                nodes["threshold"][place][inner] = _rounded_down(tree.nodes["num_threshold"][inner])
        nodes = {name: leaf.reshape(-1, _NODES) for name, leaf in nodes.items()}
        return {"nodes": nodes, "last": {"kernel": np.eye(outputs, dtype=np.float32), "bias": bias}}


def _rounded_down(x: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
    """The largest float32 that are not above: what they tell float32 apart by is the same."""
    near = x.astype(np.float32)
    return np.where(near > x, np.nextafter(near, np.float32(-np.inf)), near)
