"""The parts of a run that predict for new networks: its probes and its head.

A predictor comes from a run folder or from an exported model, and needs no zoo in the latter case.
"""

import csv
import dataclasses
import functools
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.files import cell
from probegen_jax.method import learning
from probegen_jax.method.generators.base import Given
from probegen_jax.method.model import ProbeGen, head_sizes
from probegen_jax.method.readouts.base import Sizes
from probegen_jax.method.readouts.registry import name_in, readout
from probegen_jax.method.tasks import TASKS, Task
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.options import ReadOptions
from probegen_jax.runs.experiment import Run
from probegen_jax.runs.zoo_from_config import read_options
from probegen_jax.training.evaluation import Evaluation
from probegen_jax.zoo.files.arrays import Notes
from probegen_jax.zoo.own.networks import find_files, read
from probegen_jax.zoo.zoo import Networks, Zoo

_CHUNK = 2048  # networks that are read before they are predicted for


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What was predicted, a row per network, in the order they were given.

    Attributes:
      names: of the networks: paths, or places in what was given.
      faults: why there is no prediction; None where there is one.
      values_SxNxO: of each seed: probabilities of classes, or the value; nan where there is none.
      task: what was predicted.
      class_names: of each class; None where they are called by their numbers.
      notes: what was not taken as it stood in the files, such as weights of another type.
    """

    names: list[str]
    faults: list[str | None]
    values_SxNxO: Float[np.ndarray, "S N O"]
    task: Task
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def values(self) -> Float[np.ndarray, "N O"]:
        """The mean over seeds."""
        return self.values_SxNxO.mean(axis=0)

    @property
    def predicted(self) -> np.ndarray:
        """The class of each network, or -1; for values, the value or nan.

        Where a network may have several classes, (N, O): 1 of a class that is more likely than not,
        else 0, or -1.
        """
        if not self.task.classes:
            return self.values[:, 0]
        found = np.array([fault is None for fault in self.faults], bool)
        if self.task.several:
            return np.where(found[:, None], np.nan_to_num(self.values) >= 0.5, -1)
        return np.where(found, np.argmax(np.nan_to_num(self.values), axis=1), -1)

    def to_csv(self) -> str:
        """A line per network: name, prediction, confidence, and any error.

        Classes come with a probability each, values with the standard deviation over seeds if there
        are several. Between several classes of a network is a `|`. Names that a spreadsheet would
        take for formulas have a `'` before them.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        outputs = self.values_SxNxO.shape[2]
        classes = self.task.classes
        spread = not classes and len(self.values_SxNxO) > 1
        called = self.class_names or [str(label) for label in range(outputs)]
        columns = [f"p_{name}" for name in called] if classes else []
        writer.writerow(["network", "predicted", *columns, *["std"] * spread, "error"])
        values, predicted = self.values, self.predicted
        stds = self.values_SxNxO[:, :, 0].std(axis=0, ddof=1) if spread else None
        for n, (name, fault) in enumerate(zip(self.names, self.faults, strict=True)):
            cells: list[str] = [""] * (1 + len(columns) + spread)
            if fault is None and classes:
                places = np.flatnonzero(predicted[n]) if self.task.several else predicted[n : n + 1]
                name_s = "|".join(called[place] for place in places)
                cells = [cell(name_s), *(f"{value:.9g}" for value in values[n])]
            elif fault is None:
                cells = [f"{predicted[n]:.9g}", *([f"{stds[n]:.9g}"] if stds is not None else [])]
            writer.writerow([cell(name), *cells, cell(fault or "")])
        return text.getvalue()


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained probe generator and head, for every seed.

    Attributes:
      reading: how files of such networks are read.
      task: what is predicted.
      probes_SxP: of each seed (S, P, *spec.probe_shape).
      head_params: of each seed, as a pure dict with a leading seed axis on every leaf.
      readout: name of the head's class in `READOUTS`.
      head_sizes: what the head is made from.
      result: the content of the run's `result.json`, where it is known.
      class_names: of each class; None where they are called by their numbers.
    """

    spec: NetworkSpec
    reading: ReadOptions
    task: Task
    seeds: list[int]
    probes_SxP: Float[np.ndarray, "S P ..."]
    head_params: Any
    readout: str
    head_sizes: Sizes
    batch_size: int
    result: dict[str, Any] | None = None
    class_names: tuple[str, ...] | None = None

    def predict(self, networks: Any) -> Predictions:
        """Predicts for networks of the kind that the run was trained on.

        Args:
          networks: a path or several, of files and folders; state dicts (for CNNs, dicts with
            `model` and `config`); a zoo; or stacked weights, as the run's zoo has them.

        Returns:
          Predictions in the order given. A network that cannot be used has a fault instead.

        Raises:
          UserError: nothing to predict for, or weights that are not those of such networks.
        """
        if isinstance(networks, Zoo):
            return self.predict_rows(networks, np.arange(len(networks)))
        if isinstance(networks, str | pathlib.Path):
            networks = [networks]
        several = isinstance(networks, Sequence)
        if several and not networks:
            raise UserError("no networks given")
        if several and all(isinstance(each, str | pathlib.Path) for each in networks):
            files = find_files(networks)
            return self._one_by_one(files, [str(path) for path in files])
        if self.spec.is_stacked(networks):
            return self._stacked(networks)
        networks = networks if several else [networks]
        return self._one_by_one(networks, [str(n) for n in range(len(networks))])

    def predict_rows(self, zoo: Zoo, rows_N: Int[np.ndarray, " N"]) -> Predictions:
        """Predicts for some networks of a zoo.

        Raises:
          UserError: a zoo of another kind of networks.
        """
        self._refuse_other_networks(zoo)
        names = [f"{zoo.name}/{row}" for row in rows_N]
        return self._predictions(names, [None] * len(names), self._outputs(zoo, rows_N))

    def _refuse_other_networks(self, zoo: Zoo) -> None:
        theirs = (zoo.spec.probe_shape, zoo.spec.response_dim)
        ours = (self.spec.probe_shape, self.spec.response_dim)
        if theirs != ours:
            raise UserError(
                f"networks of {zoo.name} answer probes of shape {theirs[0]} with {theirs[1]} "
                f"values, but this run was trained on networks that answer {ours[0]} with {ours[1]}"
            )

    def evaluate(self, zoo: Zoo, split: str = "test") -> list[float]:
        """The metric of each seed, such as accuracy or Kendall's τ, on networks of a zoo."""
        rows_N = zoo.splits[split]
        self._refuse_other_networks(zoo)
        outputs_SxNxO = self._outputs(zoo, rows_N)
        metric = TASKS[zoo.task].metric
        return [metric(outputs_NxO, zoo.targets_N[rows_N]) for outputs_NxO in outputs_SxNxO]

    def _stacked(self, weights: Any) -> Predictions:
        number = self.spec.count(weights)
        outputs = self._outputs(Networks("networks", self.spec, weights), np.arange(number))
        names = [str(n) for n in range(number)]
        return self._predictions(names, [None] * number, outputs)

    def _one_by_one(self, sources: Sequence[Any], names: list[str]) -> Predictions:
        faults: list[str | None] = [None] * len(sources)
        notes = Notes()
        expected = self.spec.expected(self.reading)
        shape = len(self.seeds), len(sources), self.head_sizes.outputs
        outputs_SxNxO = np.full(shape, np.nan, np.float32)
        for start in range(0, len(sources), _CHUNK):
            good, networks = [], []
            for n in range(start, min(start + _CHUNK, len(sources))):
                try:
                    networks.append(read(self.spec, sources[n], names[n], self.reading, notes))
                    good.append(n)
                except BadNetworkError as error:
                    faults[n] = f"{error.fault}; this run expects {expected}"
            if good:
                stacked = Networks("networks", *self.spec.stack(networks))
                outputs_SxNxO[:, good] = self._outputs(stacked, np.arange(len(good)))
        found = self._predictions(names, faults, outputs_SxNxO)
        return dataclasses.replace(found, notes=tuple(notes.lines))

    def _predictions(
        self, names: list[str], faults: list[str | None], outputs_SxNxO: Float[np.ndarray, "S N O"]
    ) -> Predictions:
        values_SxNxO = self.task.predictions(outputs_SxNxO)
        return Predictions(names, faults, values_SxNxO, self.task, self.class_names)

    def _outputs(
        self, networks: Networks, rows_N: Int[np.ndarray, " N"]
    ) -> Float[np.ndarray, "S N O"]:
        """Logits or values for the networks at rows."""
        state = learning.TrainState(
            {"head": self.head_params}, {"generator": {"probes": self.probes_SxP}}, None, None
        )
        spec = networks.spec.on_platform(jax.default_backend())
        learner = _learner(spec, self.probes_SxP.shape[1:], self.readout, self.head_sizes)
        at_once = readout(self.readout, spec).reads_weights
        run = Evaluation(learner, networks, self.batch_size)
        return run.outputs(state, rows_N, answers_first=at_once)


@functools.lru_cache(maxsize=8)  # equal learners share what is compiled
def _learner(
    spec: NetworkSpec, probes_shape: tuple[int, ...], head: str, sizes: Sizes
) -> learning.Learner:
    """Runs a head on the responses to probes that are part of the state."""

    def model_from(key: Key[Array, ""]) -> ProbeGen:
        made = readout(head, spec).make(spec, sizes, rngs=nnx.Rngs(params=key))
        made.platform = jax.default_backend()
        return ProbeGen(spec, Given(jnp.zeros(probes_shape)), made)

    return learning.Learner(model_from, spec)


def predictor_of(run: Run, which: str = "last") -> Predictor:
    """The predictor of a finished run.

    Raises:
      UserError: the run is not finished.
    """
    experiment = run.experiment
    if run.result is None:
        raise UserError(
            f"{run.folder} is at step {run.step} of {experiment.total_steps}, not finished; train "
            "it to its end with the command that started it"
        )
    state = dataclasses.replace(run.state, params=run.params(which))
    config, zoo = experiment.config, experiment.zoo
    return Predictor(
        spec=zoo.spec,
        reading=read_options(config),
        task=TASKS[zoo.task],
        seeds=experiment.seeds,
        probes_SxP=np.asarray(experiment.learner.probes(state)),
        head_params=state.params["head"],
        readout=name_in(config),
        head_sizes=head_sizes(config.to_dict(), zoo.num_outputs),
        batch_size=config.batch_size,
        result=run.result,
        class_names=zoo.class_names,
    )
