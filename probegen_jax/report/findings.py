"""The content of a report, as plain arrays and facts; other modules draw it."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Num
from scipy.special import softmax

from probegen_jax import settings
from probegen_jax.method.learning import TrainState
from probegen_jax.method.readouts.registry import name_in, readout
from probegen_jax.method.tasks import TASKS, Task, of_metric
from probegen_jax.report.drawings import Drawing, draw
from probegen_jax.runs.experiment import Run
from probegen_jax.zoo.zoo import SPLITS, Zoo

# Validation networks on which probes are left out, one after the other; more say no more.
_MOST_NETWORKS = 1024
_WORST = 12
_PLANES = 5
_LONGEST = 40  # characters of a class's name
_MOST_NAMED = 10  # classes of one network

# A class or a value; or whether a network has each class, where it may have several.
Target = int | float | list[int]
Series = tuple[str, list[int], list[float]]  # label, steps, values


@dataclasses.dataclass(frozen=True)
class Wrong:
    """A test network that was predicted badly.

    Attributes:
      error: probability of the predicted class less that of the true one, or distance of values;
        of several classes, by how much the probability of each is off, on average.
      drawing: what it draws, of INRs.
    """

    row: int
    target: Target
    predicted: Target
    error: float
    drawing: Drawing | None = None


@dataclasses.dataclass(frozen=True)
class Importance:
    """The worth of each probe of the first seed: the effect of replacing its responses by a mean.

    Attributes:
      loss_P: by how much the mean loss grows without each.
      metric_P: by how much the metric falls without each.
    """

    networks: int
    loss: float
    loss_P: Float[np.ndarray, " P"]
    metric: float
    metric_P: Float[np.ndarray, " P"]


@dataclasses.dataclass(frozen=True)
class Findings:
    """The content of one run's report; if there are several seeds, pictures show the first.

    Attributes:
      result: content of `result.json`, or `unfinished`.
      planes: what a few test networks draw, of INRs.
      wrong: the test networks with the largest errors, the largest first.
      importance: None where there are no probes.
      class_names: of each class, cut short; None of values.
    """

    name: str
    folder: pathlib.Path
    config: dict[str, Any]
    result: dict[str, Any]
    records: list[dict[str, Any]]
    facts: dict[str, str]
    probes_before: Float[np.ndarray, "P ..."]
    probes_after: Float[np.ndarray, "P ..."]
    planes: list[Drawing]
    targets_N: Num[np.ndarray, "N *classes"]
    outputs_NxO: Float[np.ndarray, "N O"]
    wrong: list[Wrong]
    importance: Importance | None
    class_names: list[str] | None = None

    def called(self, target: Target) -> str:
        """A class by its name, several of them in a row, a value in few characters."""
        return _called(target, self.class_names)

    @property
    def task(self) -> Task:
        """What is predicted, and how it is scored."""
        return of_metric(self.result["metric"])

    @property
    def before(self) -> str:
        """What `probes_before` are; of a run that started with another's parameters, no start."""
        return "fresh ones (see init_from)" if self.config.get("init_from") else "before training"

    @property
    def loss(self) -> str:
        """What is minimised."""
        scaled = not self.task.classes and settings.standardizes(self.config)
        return "loss of standardized targets" if scaled else "loss"

    def series(self, key: str) -> list[Series]:
        """What the records say under `key`, of every seed."""
        records = [record for record in self.records if key in record]
        steps, seed = [record["step"] for record in records], self.config["seed"]
        values_SxT = zip(*(record[key] for record in records), strict=True)
        return [(f"seed {seed + n}", steps, list(values)) for n, values in enumerate(values_SxT)]

    @property
    def curves(self) -> dict[str, tuple[str, list[Series]]]:
        """The learning curves by name, each with a title."""
        validation = self.series(f"val_{self.task.metric_name}")
        return {
            "loss": (f"training {self.loss}", self.series("train_loss")),
            "validation": (f"validation {self.task.metric_title}", validation),
        }


def find(run: Run) -> Findings:
    """Looks at a run, finished or not, as `experiment.load_run` gives it."""
    experiment, zoo, learner = run.experiment, run.experiment.zoo, run.experiment.learner
    # Of the whole model only the generator is made: the rest is not compiled.
    before = jax.jit(lambda key: learner.make_model(key).generator())(experiment.keys[0][0])
    trained = dataclasses.replace(run.state, params=learner.improved(run.state))
    after = learner.probes(trained)[0]
    rows = zoo.splits["test"]
    outputs_NxO = run.outputs(rows)[0]
    wrong, different = _wrong(zoo, rows, outputs_NxO), different_targets(zoo)
    drawings = drawn(zoo, [*different, *(net.row for net in wrong)])
    return Findings(
        name=run.folder.resolve().name,
        folder=run.folder,
        config=experiment.config.to_dict(),
        result=run.result or unfinished(run),
        records=run.records,
        facts=_facts(run),
        probes_before=np.asarray(before),
        probes_after=np.asarray(after),
        planes=[drawings[row] for row in different] if drawings else [],
        targets_N=zoo.targets_N[rows],
        outputs_NxO=outputs_NxO,
        wrong=[dataclasses.replace(net, drawing=drawings.get(net.row)) for net in wrong],
        importance=_importance(run, trained) if len(after) else None,
        class_names=names_of_classes(zoo),
    )


def names_of_classes(zoo: Zoo) -> list[str] | None:
    """What each class is called, in few characters; None of a regression."""
    if not TASKS[zoo.task].classes:
        return None
    return [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in zoo.called]


def _called(target: Target, names: Sequence[str] | None) -> str:
    if names is None:
        return shown(target)
    if not np.ndim(target):
        return names[int(target)]
    has = [names[place] for place in np.flatnonzero(target)]
    more = f" and {len(has) - _MOST_NAMED} more" if len(has) > _MOST_NAMED else ""
    return ", ".join(has[:_MOST_NAMED]) + more if has else "none"


def unfinished(run: Run) -> dict[str, Any]:
    """What `result.json` would say of a run that is still under way: no figures."""
    experiment = run.experiment
    return {
        "dataset": experiment.zoo.name,
        "method": experiment.config.method,
        "num_probes": experiment.config.num_probes,
        "metric": experiment.metric_name,
        "steps": run.step,
    }


def _facts(run: Run) -> dict[str, str]:
    """What was trained on what, as a table's rows."""
    zoo, config = run.experiment.zoo, run.experiment.config
    spec, shape = zoo.spec, zoo.spec.probe_shape
    weights = "" if spec.num_weights is None else f" of {spec.num_weights:,} weights"
    kind = f"points with {shape[0]} coordinates"
    if len(shape) == 3:
        kind = f"images of {' × '.join(map(str, shape))} values"
    name = name_in(config)
    head = f"{config.head_depth} linear layers, {config.head_width} wide"
    probed = {
        "probes": f"{config.num_probes} ({config.method}), {kind}",
        "responses": f"{spec.response_dim} for each probe",
    }
    facts = {
        "zoo": f"{zoo.name}, {len(zoo):,} networks{weights}",
        "predicted": TASKS[zoo.task].goal.format(num_outputs=zoo.num_outputs),
        "networks": ", ".join(f"{len(zoo.splits[name]):,} {name}" for name in SPLITS),
        **(probed if config.num_probes else {}),
        "head": f"{'fitted at once' if readout(name, spec).fitted else head}, reads {name}",
    }
    if zoo.runs_N is not None:
        facts["training runs"] = f"{len(np.unique(zoo.runs_N)):,}"
    return facts


def drawn(zoo: Zoo, rows: list[int], sliced: bool = False) -> dict[int, Drawing]:
    """What the networks at `rows` draw, by row; see `drawings.draw`."""
    names = names_of_classes(zoo)
    called = [_called(target, names) for target in zoo.targets_N[rows].tolist()]
    return draw(zoo, rows, called, sliced)


def different_targets(zoo: Zoo) -> list[int]:
    """A few test networks, of different targets."""
    rows = zoo.splits["test"]
    _, first = np.unique(zoo.targets_N[rows], return_index=True, axis=0)
    return [int(row) for row in rows[np.sort(first)[:_PLANES]]]


def shown(value: Any) -> str:
    """A target or a prediction in few characters."""
    number = float(value)
    if number.is_integer() and abs(number) < 1e9:
        return f"{number:.0f}"
    return f"{number:.3f}" if 0.01 <= abs(number) < 1e6 else f"{number:.4g}"


def _wrong(
    zoo: Zoo, rows: Int[np.ndarray, " N"], outputs_NxO: Float[np.ndarray, "N O"]
) -> list[Wrong]:
    task, targets_N = TASKS[zoo.task], zoo.targets_N[rows]
    if task.several:
        shares_NxO = task.predictions(outputs_NxO)
        predicted_N = (shares_NxO >= 0.5).astype(targets_N.dtype)
        is_wrong_N = np.any(predicted_N != targets_N, axis=1)
        errors_N = is_wrong_N * np.mean(np.abs(shares_NxO - targets_N), axis=1)
    elif task.classes:
        shares_NxO = softmax(outputs_NxO, axis=-1)
        predicted_N = np.argmax(outputs_NxO, axis=-1)
        networks = np.arange(len(rows))
        errors_N = shares_NxO[networks, predicted_N] - shares_NxO[networks, targets_N]
    else:
        predicted_N = outputs_NxO[:, 0]
        errors_N = np.abs(predicted_N - targets_N)
    order = np.argsort(-np.nan_to_num(errors_N, nan=np.inf), kind="stable")[:_WORST]
    return [
        Wrong(int(rows[n]), targets_N[n].tolist(), predicted_N[n].tolist(), float(errors_N[n]))
        for n in order
        if errors_N[n] != 0
    ]


def _importance(run: Run, trained: TrainState) -> Importance:
    experiment, zoo = run.experiment, run.experiment.zoo
    learner, task = experiment.learner, TASKS[zoo.task]
    rows = zoo.splits["val"]
    chosen = np.linspace(0, len(rows) - 1, min(_MOST_NETWORKS, len(rows))).astype(int)
    rows = rows[np.unique(chosen)]
    targets_N, learnt_N = zoo.targets_N[rows], experiment.learnt_zoo.targets_N[rows]
    first = jax.tree.map(lambda leaf: leaf[:1], trained)
    params, fixed = jax.tree.map(lambda leaf: leaf[0], (first.params, first.fixed))
    responses_NxPxR = jnp.asarray(experiment.evaluation.responses(first, rows)[0])
    mean_PxR = jnp.mean(responses_NxPxR, axis=0)

    @jax.jit
    def measure(params: Any, fixed: Any, responses_NxPxR: Array) -> tuple[Array, Array]:
        head = nnx.merge(learner.graphdef, params, fixed).head

        def without(probe: Array) -> tuple[Array, Array]:
            left_out = jnp.arange(mean_PxR.shape[0]) == probe  # none where probe is -1
            outputs_NxO = head(jnp.where(left_out[None, :, None], mean_PxR[None], responses_NxPxR))
            return jnp.mean(task.loss(outputs_NxO, jnp.asarray(learnt_N))), outputs_NxO

        return jax.lax.map(without, jnp.arange(-1, mean_PxR.shape[0]))

    losses, outputs = map(np.asarray, measure(params, fixed, responses_NxPxR))
    scores = np.array([task.metric(outputs_NxO, targets_N) for outputs_NxO in outputs])
    return Importance(
        networks=len(rows),
        loss=float(losses[0]),
        loss_P=losses[1:] - losses[0],
        metric=float(scores[0]),
        metric_P=scores[0] - scores[1:],
    )
