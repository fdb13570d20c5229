"""What the entry points share: from a config, or from a run's folder, to a zoo and a learner."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from probegen_jax import settings
from probegen_jax.errors import UserError
from probegen_jax.files import read_json
from probegen_jax.method import learning
from probegen_jax.method.generators import registry
from probegen_jax.method.model import make_model
from probegen_jax.method.optimizer import adam_cosine
from probegen_jax.method.tasks import TASKS, mean_over_runs
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.mixed_cnn.mixed import MixedCnnSpec
from probegen_jax.networks.sine import EXACT_TO
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.runs.zoo_from_config import from_config
from probegen_jax.training.checkpoints import Checkpoints, folder_of
from probegen_jax.zoo.zoo import Stored, Zoo


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a config asks for, ready to be trained or run.

    Attributes:
      config: as `settings.check` accepts it.
      zoo: with weights on the host.
      learner: how to make, run and improve the model.
    """

    config: ConfigDict
    zoo: Zoo
    learner: learning.Learner

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
    def steps_per_epoch(self) -> int:
        """Batches that hold every training network once."""
        return _steps_per_epoch(self.config, self.zoo)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return _total_steps(self.config, self.zoo)

    @property
    def metric_name(self) -> str:
        """What is reported: "accuracy" or "kendall_tau"."""
        return TASKS[self.zoo.task].metric_name

    def outputs(
        self, state_S: learning.TrainState, rows_N: Int[np.ndarray, " N"]
    ) -> Float[Array, "S N O"]:
        """Every seed's outputs for networks of the zoo.

        Args:
          state_S: what is used of it is `params` and `fixed`.
          rows_N: of the networks.
        """
        learner, batch_size = self.learner, self.config.batch_size
        weights = jax.device_put(self.zoo.weights)
        rows_TxB = learning.in_batches(rows_N, batch_size)
        if learning.probes_are_fixed(state_S):  # in two parts, as in training
            respond = jax.jit(lambda *args: learning.responses(learner, *args))
            weights = respond(state_S, weights, rows_TxB)
            learner = dataclasses.replace(learner, from_responses=True)
            rows_TxB = learning.in_batches(np.arange(len(rows_N)), batch_size)
        predict = jax.jit(lambda *args: learning.predict(learner, *args))
        outputs = predict(state_S.params, state_S.fixed, weights, rows_TxB)
        return outputs[:, : len(rows_N)]

    def scores(
        self, split: str, outputs_SxNxO: Float[Array, "S N O"] | Float[np.ndarray, "S N O"]
    ) -> list[float]:
        """The metric of each seed's outputs for the networks of a split."""
        metric = TASKS[self.zoo.task].metric
        targets_N = self.zoo.targets_N[self.zoo.splits[split]]
        return [metric(outputs_NxO, targets_N) for outputs_NxO in np.asarray(outputs_SxNxO)]

    def entries(self, at: Sequence[int], outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What `result.json` says of one set of parameters.

        Args:
          at: the step that each seed's parameters are of.
          outputs: each seed's outputs (S, N, O) for the networks of a split, by split.

        Returns:
          Of every seed: its step and its metric on each split, and also the metric within runs
          where the zoo has runs.
        """
        metric = TASKS[self.zoo.task].metric
        found: list[dict[str, Any]] = [{"step": step} for step in at]
        for split, outputs_SxNxO in outputs.items():
            outputs_SxNxO = np.asarray(outputs_SxNxO)
            for entry, score in zip(found, self.scores(split, outputs_SxNxO), strict=True):
                entry[split] = score
            if self.zoo.runs_N is not None:
                rows = self.zoo.splits[split]
                for entry, outputs_NxO in zip(found, outputs_SxNxO, strict=True):
                    entry[f"{split}_within_runs"] = mean_over_runs(
                        metric, outputs_NxO, self.zoo.targets_N[rows], self.zoo.runs_N[rows]
                    )
        return found


def facts(zoo: Zoo) -> dict[str, Any]:
    """What tells a zoo from others with the same config, such as other files under its name."""
    digest = hashlib.sha256(np.asarray(zoo.targets_N).tobytes())
    for split, rows in sorted(zoo.splits.items()):
        digest.update(f"{split} {len(rows)}".encode() + np.asarray(rows).tobytes())
    return {"networks": len(zoo), "targets and splits": digest.hexdigest()[:16]}


def set_up(config: ConfigDict) -> Experiment:
    """The experiment of a config; sets the precision of matmuls for the process.

    Args:
      config: as `settings.check` accepts it.

    Raises:
      UserError: the config or the zoo's files are not usable.
    """
    logging.set_verbosity(logging.ERROR)  # Orbax tells every save
    jax.config.update("jax_default_matmul_precision", config.matmul_precision)
    zoo = from_config(config).with_fewer_to_train_on(config.get("max_train_networks"))
    zoo = dataclasses.replace(zoo, spec=_how_it_runs(zoo, config))
    images = probe_images(config, zoo.spec)
    if images is not None and images.shape[1:] != zoo.spec.probe_shape:
        # The official code shows grayscale networks larger images than they were trained on.
        spec = dataclasses.replace(zoo.spec, image_shape=images.shape[1:])
        zoo = dataclasses.replace(zoo, spec=spec)
    return Experiment(config, zoo, make_learner(config, zoo, images))


def _how_it_runs(zoo: Zoo, config: ConfigDict) -> NetworkSpec:
    """The zoo's spec, with what the config says of sines, types and blocks."""
    spec, changes = zoo.spec, {}
    if config.get("block_size") is not None:
        changes["block_size"] = config.block_size
    sine = config.get("sine", "auto")
    if isinstance(spec, SirenSpec):
        if sine == "auto":
            # A stored zoo is not read for this. Probes go where training takes them; ten times as
            # far as the image reaches has never been seen.
            far = not isinstance(zoo.weights, Stored) and (
                spec.phase_bound(zoo.weights, reach=10.0) > EXACT_TO
            )
            sine = "exact" if far else "fast"
        changes["sine"] = sine
    dtype = config.get("compute_dtype", "float32")
    if isinstance(spec, MixedCnnSpec):
        changes["dtype"] = dtype
    elif dtype != "float32":
        raise UserError(
            f"compute_dtype is {dtype!r}, which is for zoos of mixed CNNs alone, and {zoo.name} is "
            "none; leave it out"
        )
    return dataclasses.replace(spec, **changes)


def with_block_size(experiment: Experiment, block_size: int | None) -> Experiment:
    """The same experiment, with so many networks side by side; its probes must be trained."""
    spec = dataclasses.replace(experiment.zoo.spec, block_size=block_size)
    zoo = dataclasses.replace(experiment.zoo, spec=spec)
    learner = make_learner(experiment.config, zoo, None)
    return dataclasses.replace(experiment, zoo=zoo, learner=learner)


def probe_images(config: ConfigDict, spec: NetworkSpec) -> Float[np.ndarray, "M h w C"] | None:
    """The images that the method's probes are taken from; None where it needs none."""
    generator = registry.entry(config.method, spec.probe_shape).generator
    return generator.needed_images(config.to_dict(), spec.probe_shape)


def make_learner(
    config: ConfigDict, zoo: Zoo, images: Float[np.ndarray, "M H W C"] | None
) -> learning.Learner:
    """The learner of a config for a zoo; `images` as `probe_images` gives them."""
    settings = config.to_dict()

    def model_from(key: Key[Array, ""]) -> nnx.Module:
        rngs = nnx.Rngs(params=key)
        return make_model(zoo.spec, settings, zoo.num_outputs, images=images, rngs=rngs)

    optimizer = adam_cosine(config.learning_rate, _total_steps(config, zoo))
    return learning.Learner(model_from, zoo.spec, TASKS[zoo.task].loss, optimizer)


def _steps_per_epoch(config: ConfigDict, zoo: Zoo) -> int:
    return -(-len(zoo.splits["train"]) // config.batch_size)


def _total_steps(config: ConfigDict, zoo: Zoo) -> int:
    return config.num_epochs * _steps_per_epoch(config, zoo)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as its folder holds it.

    Attributes:
      folder: of the run.
      experiment: its config, zoo and learner.
      step: of the checkpoint; `experiment.total_steps` once the run is finished.
      state: of all seeds at that step.
      best_params: of all seeds, at the best step on validation so far.
      best_steps: those steps.
      result: the content of `result.json`; None of a run that is not finished.
    """

    folder: pathlib.Path
    experiment: Experiment
    step: int
    state: learning.TrainState
    best_params: Any
    best_steps: list[int]
    result: dict[str, Any] | None

    def params(self, which: str = "last") -> Any:
        """Parameters of all seeds at the "last" step, or at the "best" on validation."""
        return {"last": self.state.params, "best": self.best_params}[which]

    def outputs(self, rows_N: Int[np.ndarray, " N"], which: str = "last") -> Float[Array, "S N O"]:
        """Every seed's outputs for networks of the run's zoo."""
        state = dataclasses.replace(self.state, params=self.params(which))
        return self.experiment.outputs(state, rows_N)


def load_run(
    folder: pathlib.Path,
    places: Mapping[str, str] | None = None,
    experiment: Experiment | None = None,
) -> Run:
    """A run from its folder: config, zoo, and the parameters of its last checkpoint.

    Args:
      folder: of `train`.
      places: config keys that say where things lie, where they have moved since the training, such
        as `{"data_dir": ..., "manual_dir": ...}`.
      experiment: set up before, with the same zoo and model, so that the zoo is not read again.

    Raises:
      UserError: no such run, one without a checkpoint, or a zoo that cannot be had.
    """
    config = run_config(folder, places)
    saved = folder_of(folder, config.get("checkpoint_dir"))
    if not any(saved.glob("[0-9]*")):
        raise UserError(
            f"{folder} has no checkpoint yet in {saved}; train it with the command that started it"
        )
    if experiment is None:
        experiment = set_up(config)
    experiment = dataclasses.replace(experiment, config=config)
    checkpoints = Checkpoints(saved)
    at = checkpoints.latest_step()
    fresh = jax.jit(experiment.learner.init)(experiment.keys[0])
    arrays, facts = checkpoints.restore(at, {"state": fresh, "best_params": fresh.params})
    checkpoints.close()
    result_file = folder / "result.json"
    return Run(
        folder,
        experiment,
        at,
        arrays["state"],
        arrays["best_params"],
        facts["best"]["step"],
        read_json(result_file) if result_file.exists() else None,
    )


def run_config(folder: pathlib.Path, places: Mapping[str, str] | None = None) -> ConfigDict:
    """The config of a run's folder, checked; see `load_run`."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no config.json")
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold the settings of a run, as train writes them")
    config = ConfigDict(values)
    settings.check(config, path)
    config.update(dict(places or {}))
    return config
