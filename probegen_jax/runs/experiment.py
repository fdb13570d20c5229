"""What the commands share: a zoo and a learner, made from a config or a run's folder."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from probegen_jax import settings
from probegen_jax.errors import UserError
from probegen_jax.method import learning, moves
from probegen_jax.method.moves import Reach
from probegen_jax.method.readouts.registry import name_in, readout
from probegen_jax.method.tasks import TASKS, Scale
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.options import Options
from probegen_jax.runs import records, scores
from probegen_jax.runs.folder import (
    refuse_changed_config,
    refuse_code,
    refuse_missing,
    refuse_other_zoo,
)
from probegen_jax.runs.learners import make_learner, probe_images, schedule_of
from probegen_jax.runs.records import run_config
from probegen_jax.runs.zoo_facts import facts
from probegen_jax.runs.zoo_from_config import PUBLISHED, from_config
from probegen_jax.training.boundaries import Schedule
from probegen_jax.training.checkpoints import Checkpoints, folder_of
from probegen_jax.training.evaluation import Evaluation, answers_once
from probegen_jax.training.loop import Best
from probegen_jax.typed_json import typed
from probegen_jax.zoo.zoo import Networks, Stored, Zoo


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a config asks for, ready to be trained or run.

    Attributes:
      given: the networks' spec before the config had its say on how they run.
      platform: of the devices that it is made for, see `networks.contract.Options`.
    """

    config: ConfigDict
    zoo: Zoo
    learner: learning.Learner
    given: NetworkSpec
    platform: str

    @property
    def seeds(self) -> list[int]:
        """The seed of each run."""
        return [self.config.seed + i for i in range(self.config.num_seeds)]

    @property
    def keys(self) -> tuple[Key[Array, " S"], Key[Array, " S"]]:
        """Of each seed: the key that the model starts from, and that of the networks' order."""
        keys_S = jax.vmap(jax.random.key)(jnp.asarray(self.seeds))
        keys_Sx2 = jax.vmap(jax.random.split)(keys_S)
        return keys_Sx2[:, 0], keys_Sx2[:, 1]

    @property
    def zoo_facts(self) -> dict[str, Any]:
        """See `zoo_facts.facts`."""
        return facts(dataclasses.replace(self.zoo, spec=self.given), self.config)

    @property
    def scale(self) -> Scale | None:
        """In which values are learnt; None where targets are learnt as they are."""
        if TASKS[self.zoo.task].classes or not settings.standardizes(self.config):
            return None
        return Scale.of(self.zoo.targets_N[self.zoo.splits["train"]])

    @property
    def learnt_zoo(self) -> Zoo:
        """The zoo with targets as the loss compares outputs with them."""
        if self.scale is None:
            return self.zoo
        return dataclasses.replace(self.zoo, targets_N=self.scale.learnt(self.zoo.targets_N))

    @property
    def schedule(self) -> Schedule:
        """What happens at which step of the training."""
        return schedule_of(self.config, self.zoo)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.schedule.total_steps

    @property
    def metric_name(self) -> str:
        """What is reported, such as "accuracy"."""
        return TASKS[self.zoo.task].metric_name

    def outputs(
        self, state_S: learning.TrainState, rows_N: Int[np.ndarray, " N"]
    ) -> Float[np.ndarray, "S N O"]:
        """Every seed's outputs for networks of the zoo, in the unit that was learnt.

        Args:
          state_S: what is used of it is `params` and `fixed`.
        """
        once = answers_once(self.learner, state_S)
        return self.evaluation.outputs(state_S, rows_N, answers_first=once)

    def views(
        self, state_S: learning.TrainState, rows_N: Int[np.ndarray, " N"]
    ) -> Float[np.ndarray, "K S N O"]:
        """Every seed's outputs for each of `test_views` moves of networks; as `outputs`."""
        weights, spec = self.zoo.read(rows_N), self.zoo.spec
        found = []
        for number in range(self.config.test_views):
            moved = moves.moved(Reach.of(self.config.to_dict()), spec, weights, number)
            networks = Networks(self.zoo.name, spec, moved)
            run = dataclasses.replace(self.evaluation, zoo=networks)
            found.append(run.outputs(state_S, np.arange(len(rows_N))))
        return np.stack(found)

    @property
    def has_views(self) -> bool:
        """Whether networks are moved to be scored."""
        return bool(self.config.get("test_views"))

    @property
    def evaluation(self) -> Evaluation:
        """Runs the model on networks of the zoo."""
        mode = settings.nested(self.config, "data.mode", "auto")
        return Evaluation(self.learner, self.zoo, self.config.batch_size, mode)

    def scores(self, split: str, outputs_SxNxO: Float[np.ndarray, "S N O"]) -> list[float]:
        """The metric of each seed's outputs for the networks of a split."""
        metric = TASKS[self.zoo.task].metric
        targets_N = self.zoo.targets_N[self.zoo.splits[split]]
        return [metric(outputs_NxO, targets_N) for outputs_NxO in outputs_SxNxO]

    def entries(
        self, at: Sequence[int], outputs: Mapping[str, Any], views: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """What `result.json` says of one set of parameters; see `scores.of_seeds`."""
        return scores.of_seeds(self.zoo, at, outputs, views)

    def ensemble(
        self, outputs: Mapping[str, Any], views: Mapping[str, Any] | None = None
    ) -> dict[str, float | None]:
        """What it says of the mean prediction over seeds; see `scores.of_ensemble`."""
        return scores.of_ensemble(self.zoo, outputs, views)


def zoo_of(config: ConfigDict, zoo: Zoo | None = None) -> Zoo:
    """The zoo that a run is trained on: `zoo`, or the one that its config names."""
    zoo = from_config(config) if zoo is None else zoo
    return zoo.with_fewer_to_train_on(config.get("max_train_networks"))


def matmul_precision(config: ConfigDict, platform: str) -> str:
    """As jax calls it; "auto" is the cheapest within 1e-5 of the official code, see cluster.md."""
    chosen = {"tpu": "high"}.get(platform, "highest")
    return chosen if config.matmul_precision == "auto" else config.matmul_precision


def set_up(config: ConfigDict, zoo: Zoo | None = None, platform: str | None = None) -> Experiment:
    """The experiment of a config; sets the precision of matmuls for the process.

    Args:
      zoo: in memory; if None, the one that the config names.
      platform: of the devices that it will run on; if None, that of jax's first device.

    Raises:
      UserError: the config or the zoo's files are not usable.
    """
    logging.set_verbosity(logging.ERROR)  # Orbax logs every save
    platform = platform or jax.default_backend()
    jax.config.update("jax_default_matmul_precision", matmul_precision(config, platform))
    zoo = zoo_of(config, zoo)
    given = zoo.spec
    zoo = dataclasses.replace(zoo, spec=_how_it_runs(zoo, config, platform))
    images = probe_images(config, zoo.spec)
    if images is not None and images.shape[1:] != zoo.spec.probe_shape:
        # The official code shows grayscale networks larger images than they were trained on.
        zoo = dataclasses.replace(zoo, spec=zoo.spec.with_probe_shape(images.shape[1:]))
    learner = make_learner(config, zoo, images, platform)
    return Experiment(config, zoo, learner, given, platform)


def _how_it_runs(zoo: Zoo, config: ConfigDict, platform: str) -> NetworkSpec:
    """The zoo's spec, with what the config says of sines, types and blocks."""
    options = Options(
        config.get("block_size"),
        config.get("sine", "auto"),
        config.get("compute_dtype", "float32"),
        platform,
    )
    weights = None if isinstance(zoo.weights, Stored) else zoo.weights
    return zoo.spec.with_options(options, weights)


def with_block_size(experiment: Experiment, block_size: int | None) -> Experiment:
    """The same experiment with this `block_size`; its probes must be trained."""
    spec = experiment.zoo.spec.with_block_size(block_size)
    zoo = dataclasses.replace(experiment.zoo, spec=spec)
    learner = make_learner(experiment.config, zoo, None, experiment.platform)
    return dataclasses.replace(experiment, zoo=zoo, learner=learner)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as its folder holds it.

    Attributes:
      state: at the last step, as it was trained; `params` has values in the targets' own unit.
      best_params: of all seeds, at the best step on validation so far, likewise.
      records: the metrics up to `step`, as in `metrics.jsonl`.
      result: the content of `result.json`; None of a run that is not finished.
    """

    folder: pathlib.Path
    experiment: Experiment
    step: int
    state: learning.TrainState
    best_params: Any
    best_steps: list[int]
    records: list[dict[str, Any]]
    result: dict[str, Any] | None

    def params(self, which: str = "last") -> Any:
        """Parameters of all seeds at the "last" step, or at the "best" on validation."""
        params, scale = self._trained(which), self.experiment.scale
        if scale is None:
            return params
        head = readout(name_in(self.experiment.config), self.experiment.zoo.spec)
        return params | {"head": head.predicting_values(params["head"], scale)}

    def outputs(
        self, rows_N: Int[np.ndarray, " N"], which: str = "last"
    ) -> Float[np.ndarray, "S N O"]:
        """Every seed's outputs for networks of the run's zoo: logits, or values."""
        state = dataclasses.replace(self.state, params=self._trained(which))
        scale = self.experiment.scale
        outputs = self.experiment.outputs(state, rows_N)
        return scale.values(outputs) if scale else outputs

    def views(
        self, rows_N: Int[np.ndarray, " N"], which: str = "last"
    ) -> Float[np.ndarray, "K S N O"]:
        """Likewise, for each of `test_views` moves of the networks."""
        state = dataclasses.replace(self.state, params=self._trained(which))
        views, scale = self.experiment.views(state, rows_N), self.experiment.scale
        return scale.values(views) if scale else views

    def _trained(self, which: str) -> Any:
        best = which == "best"
        return self.best_params if best else self.experiment.learner.improved(self.state)


def load_run(
    folder: pathlib.Path,
    places: Mapping[str, str] | None = None,
    experiment: Experiment | None = None,
    zoo: Zoo | None = None,
    changed: bool = False,
) -> Run:
    """A run from its folder: config, zoo, and the parameters of its last checkpoint.

    Args:
      places: config keys that say where things lie, where they have moved since the training, such
        as `{"data_dir": ..., "manual_dir": ...}`.
      experiment: set up before, with the same zoo and model, so that the zoo is not read again.
      zoo: that the run was trained on, where that was in memory.
      changed: whether to take a `result.json` that is not as the training wrote it.

    Raises:
      UserError: no such run, one without a checkpoint, files that are damaged or do not belong
        together, or a zoo that cannot be read.
    """
    config = run_config(folder, places)
    result = records.read_result(folder, changed)
    saved = folder_of(folder, config.get("checkpoint_dir"))
    if not any(saved.glob("[0-9]*")):
        raise UserError(
            f"{folder} has no checkpoint yet in {saved}; train it with the command that started "
            "it, or say where they lie now with --checkpoint_dir=DIR"
        )
    checkpoints = Checkpoints(saved)
    at = checkpoints.latest_step()
    saved_facts = checkpoints.facts(at)
    refuse_changed_config(folder, saved_facts.get("config"), config.to_dict())
    if experiment is None:
        if zoo is None:
            refuse_code(folder, config.get("network"), places or {})
            refuse_missing(folder, config.to_dict(), needs_data_dir=config.dataset in PUBLISHED)
        experiment = set_up(config, zoo)
    experiment = dataclasses.replace(experiment, config=config)
    # Older runs know nothing of their zoo: nothing to compare, and no need to read all of it.
    if known := saved_facts.get("zoo") or records.read_zoo(folder):
        refuse_other_zoo(folder, known, experiment.zoo_facts)
    fresh = jax.jit(experiment.learner.init)(experiment.keys[0])
    arrays, saved_facts = checkpoints.restore(at, {"state": fresh, "best_params": fresh.params})
    checkpoints.close()
    records.refuse_other_result(folder, result, at, config.num_seeds)
    best = typed(Best, saved_facts.get("best"), f"best of the checkpoint {saved / str(at)}")["step"]
    state, best_params = arrays["state"], arrays["best_params"]
    metrics = saved_facts.get("records", [])
    return Run(folder, experiment, at, state, best_params, best, metrics, result)
