"""What there is to tell of a run: computed here as plain arrays and facts, drawn elsewhere."""

import dataclasses
import itertools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Num
from scipy.special import softmax

from probegen_jax.method import learning
from probegen_jax.method.tasks import TASKS, Task, of_metric
from probegen_jax.networks.respond import respond
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.runs.experiment import Run
from probegen_jax.zoo.zoo import SPLITS, Zoo

# Validation networks on which probes are left out, one after the other; more say no more.
_MOST_NETWORKS = 1024
_WORST = 12
_PLANES = 5


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What one INR of the zoo draws.

    Attributes:
      row: of the zoo.
      target: of the network, in few characters.
      image_HxWxC: values in [0, 1].
    """

    row: int
    target: str
    image_HxWxC: Float[np.ndarray, "H W C"]


@dataclasses.dataclass(frozen=True)
class Wrong:
    """A test network that was predicted badly.

    Attributes:
      row: of the zoo.
      target: class or value.
      predicted: class or value.
      error: probability of the predicted class less that of the true one, or distance of values.
      drawing: what it draws, of INRs of the plane.
    """

    row: int
    target: float
    predicted: float
    error: float
    drawing: Drawing | None


@dataclasses.dataclass(frozen=True)
class Importance:
    """What each probe of the first seed is worth: its responses replaced by their mean.

    Attributes:
      networks: of the validation split that this was measured on.
      loss: with all probes.
      loss_P: by how much the mean loss grows without each.
      metric: with all probes.
      metric_P: by how much the metric falls without each.
    """

    networks: int
    loss: float
    loss_P: Float[np.ndarray, " P"]
    metric: float
    metric_P: Float[np.ndarray, " P"]


@dataclasses.dataclass(frozen=True)
class Findings:
    """Everything that a report tells of one run; of several seeds, pictures show the first.

    Attributes:
      name: the run folder's.
      folder: of the run.
      config: settings by key.
      result: content of `result.json`, or `unfinished`.
      records: lines of `metrics.jsonl`.
      facts: of the zoo, by name.
      grid: order of the coordinates of INR probes; None where probes are images.
      probes_before: of the first seed at its start.
      probes_after: of the first seed now.
      planes: what a few test networks draw, of INRs of the plane.
      targets_N: of the test networks.
      outputs_NxO: the first seed's, for them.
      wrong: the test networks with the largest errors, the largest first.
      importance: of the probes.
    """

    name: str
    folder: pathlib.Path
    config: dict[str, Any]
    result: dict[str, Any]
    records: list[dict[str, Any]]
    facts: dict[str, str]
    grid: str | None
    probes_before: Float[np.ndarray, "P ..."]
    probes_after: Float[np.ndarray, "P ..."]
    planes: list[Drawing]
    targets_N: Num[np.ndarray, " N"]
    outputs_NxO: Float[np.ndarray, "N O"]
    wrong: list[Wrong]
    importance: Importance

    @property
    def task(self) -> Task:
        """What is predicted, and how it is scored."""
        return of_metric(self.result["metric"])


def find(run: Run) -> Findings:
    """Looks at a run, finished or not.

    Args:
      run: as `experiment.load_run` gives it.
    """
    experiment, zoo = run.experiment, run.experiment.zoo
    learner = experiment.learner
    # Of the whole model only the generator is made: the rest is not compiled.
    before = jax.jit(lambda key: learner.make_model(key).generator())(experiment.keys[0][0])
    after = learner.probes(run.state)[0]
    rows = zoo.splits["test"]
    outputs_NxO = np.asarray(run.outputs(rows)[0])
    wrong, planes = _wrong(zoo, rows, outputs_NxO), _different(zoo)
    drawings = iter(_draw(zoo, [*planes, *(each.row for each in wrong)]))
    return Findings(
        name=run.folder.resolve().name,
        folder=run.folder,
        config=experiment.config.to_dict(),
        result=run.result or unfinished(run),
        records=read_records(run.folder),
        facts=_facts(run),
        grid=zoo.spec.grid if isinstance(zoo.spec, SirenSpec) else None,
        probes_before=np.asarray(before),
        probes_after=np.asarray(after),
        planes=[each for each in itertools.islice(drawings, len(planes)) if each is not None],
        targets_N=zoo.targets_N[rows],
        outputs_NxO=outputs_NxO,
        wrong=[dataclasses.replace(each, drawing=next(drawings)) for each in wrong],
        importance=_importance(run),
    )


def unfinished(run: Run) -> dict[str, Any]:
    """What `result.json` would say of a run that is still under way: no figures."""
    experiment = run.experiment
    return {
        "dataset": experiment.zoo.name,
        "method": experiment.config.method,
        "num_probes": experiment.config.num_probes,
        "metric": experiment.metric_name,
        "train_networks": len(experiment.zoo.splits["train"]),
        "steps": run.step,
    }


def read_records(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`; one that a kill cut short is passed over."""
    records = []
    path = folder / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def _facts(run: Run) -> dict[str, str]:
    """What was trained on what, as a table's rows."""
    zoo, config = run.experiment.zoo, run.experiment.config
    counts = ", ".join(f"{len(zoo.splits[name]):,} {name}" for name in SPLITS)
    size = getattr(zoo.spec, "num_weights", None)
    shape = zoo.spec.probe_shape
    size_of = " × ".join(map(str, shape)) + " values" if len(shape) == 3 else f"{shape[0]}"
    kind = "images of" if len(shape) == 3 else "points of dimension"
    facts = {
        "zoo": f"{zoo.name}, {len(zoo):,} networks"
        + (f" of {size:,} weights" if isinstance(size, int) else ""),
        "predicted": TASKS[zoo.task].goal.format(num_outputs=zoo.num_outputs),
        "networks": counts,
        "probes": f"{config.num_probes} ({config.method}), {kind} {size_of}",
        "responses": f"{zoo.spec.response_dim} for each probe",
        "head": f"{config.head_depth} linear layers, {config.head_width} wide",
    }
    if zoo.runs_N is not None:
        facts["training runs"] = f"{len(np.unique(zoo.runs_N)):,}"
    return facts


def _draw(zoo: Zoo, rows: list[int]) -> list[Drawing | None]:
    """What the networks at `rows` draw; None where the zoo's networks draw nothing."""
    spec = zoo.spec
    if not isinstance(spec, SirenSpec) or spec.in_dim != 2:
        return [None] * len(rows)
    height, width = zoo.image_shape or (64, 64)
    coordinates = jnp.asarray(spec.pixel_coordinates(height, width))
    weights = jax.tree.map(lambda leaf: jnp.asarray(leaf[np.asarray(rows)]), zoo.weights)
    images = np.asarray(jax.jit(jax.vmap(spec.apply, (0, None)))(weights, coordinates))
    if spec.output_shift == 0:  # such networks were fitted to targets in [-1, 1]
        images = (images + 1) / 2
    return [
        Drawing(row, shown(zoo.targets_N[row]), np.clip(image, 0, 1).reshape(height, width, -1))
        for row, image in zip(rows, images, strict=True)
    ]


def _different(zoo: Zoo) -> list[int]:
    """A few test networks, of different targets."""
    rows = zoo.splits["test"]
    _, first = np.unique(zoo.targets_N[rows], return_index=True)
    return [int(row) for row in rows[np.sort(first)[:_PLANES]]]


def shown(value: Any) -> str:
    """A target or a prediction in few characters."""
    number = float(value)
    return f"{number:.0f}" if number.is_integer() else f"{number:.3f}"


def _wrong(
    zoo: Zoo, rows: Int[np.ndarray, " N"], outputs_NxO: Float[np.ndarray, "N O"]
) -> list[Wrong]:
    targets_N = zoo.targets_N[rows]
    if TASKS[zoo.task].classes:
        shares_NxO = softmax(outputs_NxO, axis=-1)
        predicted_N = np.argmax(outputs_NxO, axis=-1)
        each = np.arange(len(rows))
        errors_N = shares_NxO[each, predicted_N] - shares_NxO[each, targets_N]
    else:
        predicted_N = outputs_NxO[:, 0]
        errors_N = np.abs(predicted_N - targets_N)
    order = np.argsort(-np.nan_to_num(errors_N, nan=np.inf), kind="stable")[:_WORST]
    return [
        Wrong(int(rows[n]), float(targets_N[n]), float(predicted_N[n]), float(errors_N[n]), None)
        for n in order
        if errors_N[n] != 0
    ]


def _importance(run: Run) -> Importance:
    experiment, zoo = run.experiment, run.experiment.zoo
    learner, task = experiment.learner, TASKS[zoo.task]
    rows = zoo.splits["val"]
    rows = rows[
        np.unique(np.linspace(0, len(rows) - 1, min(_MOST_NETWORKS, len(rows))).astype(int))
    ]
    targets_N = jnp.asarray(zoo.targets_N[rows])
    params, fixed = jax.tree.map(lambda leaf: leaf[0], (run.state.params, run.state.fixed))

    @jax.jit
    def measure(params: Any, fixed: Any, weights: Any, rows_TxB: Array) -> tuple[Array, Array]:
        model = nnx.merge(learner.graphdef, params, fixed)
        probes = model.generator()
        responses = jax.lax.map(
            lambda rows_B: respond(zoo.spec, zoo.spec.take(weights, rows_B), probes),
            jnp.maximum(rows_TxB, 0),
        )
        responses_NxPxR = responses.reshape(-1, *responses.shape[2:])[: len(rows)]
        mean_PxR = jnp.mean(responses_NxPxR, axis=0)

        def without(probe: Array) -> tuple[Array, Array]:
            left_out = jnp.arange(mean_PxR.shape[0]) == probe  # none where probe is -1
            mixed = jnp.where(left_out[None, :, None], mean_PxR[None], responses_NxPxR)
            outputs_NxO = model.head(mixed)
            return jnp.mean(task.loss(outputs_NxO, targets_N)), outputs_NxO

        return jax.lax.map(without, jnp.arange(-1, mean_PxR.shape[0]))

    rows_TxB = learning.in_batches(rows, experiment.config.batch_size)
    losses, outputs = measure(params, fixed, jax.device_put(zoo.weights), rows_TxB)
    scores = np.array([task.metric(each, zoo.targets_N[rows]) for each in np.asarray(outputs)])
    losses = np.asarray(losses)
    return Importance(
        len(rows),
        float(losses[0]),
        losses[1:] - losses[0],
        float(scores[0]),
        scores[0] - scores[1:],
    )
