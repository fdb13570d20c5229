"""The loop of a training: resume, advance, and at each boundary log, keep the best and save.

How a run resumes (the same command on the same folder, on any number of devices):

1. A folder with `result.json` and all else that its config promises is finished: its result is
   shown, and nothing else is done. What is missing is made, with the last checkpoint.
2. A folder with another config is refused; one without checkpoints starts at step 0.
3. A checkpoint holds everything that training changes: parameters, optimiser, step, the best on
   validation so far, losses not yet averaged, and the metrics so far, so it is enough to go on
   if all else is lost. The order of the networks follows from (seed, epoch) alone; see
   `batch_order`.
4. The boundaries between stretches of steps are fixed. The order at each is: evaluate, log, save,
   go on. A stretch may be cut anywhere between boundaries, as SIGTERM does. So a resumed
   run makes the same steps with the same values, bit for bit.
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from probegen_jax.errors import Stopped, UserError
from probegen_jax.method import learning
from probegen_jax.training import evaluation
from probegen_jax.training.batch_order import lay_out
from probegen_jax.training.batches import make_batches
from probegen_jax.training.boundaries import Schedule
from probegen_jax.training.checkpoints import Checkpoints
from probegen_jax.training.job import processes
from probegen_jax.training.job.interrupt import Interrupt, Pace
from probegen_jax.training.mesh import BY_SEED, fetch, place
from probegen_jax.training.programs import Programs
from probegen_jax.training.records import MetricsLog, Progress
from probegen_jax.typed_json import Figure, typed
from probegen_jax.zoo.zoo import Zoo


class Best(TypedDict):
    """Of each seed: its best step on validation so far, and the metric there."""

    step: list[int]
    val: list[Figure]


class _Facts(TypedDict):
    """What a checkpoint holds beside its arrays, and beside what the run is."""

    best: Best
    seconds: float
    losses: list[list[Figure]]
    records: list[dict[str, Any]]
    data: Any


@dataclasses.dataclass(frozen=True)
class _Boundary:
    """What the devices have computed for a boundary, before it is fetched."""

    record: dict[str, Any]
    losses_SxT: Float[Array, "S T"]
    params_S: Any
    val_outputs: list[Array] | None
    rate_S: Float[Array, " S"] | None = None  # where it follows validation


class Training:
    """A training under way: what it changes, and the steps of the loop.

    Attributes:
      seconds: spent on them, earlier sittings included.
      best_params: of all seeds, at the best step on validation so far.
      best: the "step" and the "val" metric of each seed there.
    """

    def __init__(
        self,
        zoo: Zoo,
        learner: learning.Learner,
        mesh: Mesh,
        schedule: Schedule,
        keys: tuple[Key[Array, " S"], Key[Array, " S"]],
        *,
        batch_size: int,
        mode: str,
        metric_name: str,
        score: Callable[[str, Float[np.ndarray, "S N O"]], list[float]],
        checkpoints: Checkpoints,
        identity: Mapping[str, Any],
    ):
        """A training at its start.

        Args:
          keys: of each seed: that of the model, and that of the networks' order.
          score: the metric of each seed's outputs for the networks of a split.
          identity: what the run is, in plain values; the facts of each checkpoint hold it.
        """
        init_keys_S, order_keys_S = keys
        self.zoo, self.mesh, self.schedule = zoo, mesh, schedule
        self._metric_name, self._score = metric_name, score
        self._checkpoints, self._identity = checkpoints, identity
        self._programs = Programs(learner, mesh)
        self._follows = learner.recipe is not None and learner.recipe.follows_validation
        layout = lay_out(zoo.splits, batch_size, zoo.costs())
        self._batches = make_batches(zoo, layout, mesh, order_keys_S, mode)
        self.state = self._programs.init(init_keys_S)
        if evaluation.answers_once(learner, self.state):
            self._programs, self._batches = evaluation.with_responses(
                self._programs, self._batches, zoo, self.state, order_keys_S
            )
        seeds = len(init_keys_S)
        self.best_params = self.state.params
        self.best = {"step": [0] * seeds, "val": [-1e9] * seeds}
        self.records: list[dict[str, Any]] = []
        self.done, self.seconds = 0, 0.0
        self._started = time.monotonic()
        self._losses_SxT = np.zeros((seeds, schedule.steps_per_epoch), np.float32)
        self._pending: _Boundary | None = None

    def resume(self, refuse_other: Callable[[Mapping[str, Any]], None]) -> bool:
        """Goes on from the last checkpoint; whether there is one.

        Args:
          refuse_other: raises a `UserError` if the facts of the checkpoint are another run's.
        """
        steps = processes.from_first("steps", self._checkpoints.steps)
        if not steps:
            return False
        self.done, arrays, facts = self._last_whole(steps)
        refuse_other(facts)
        for step in (later := [step for step in steps if step > self.done]):
            self._checkpoints.delete(step)
        if later:
            print(
                f"warning: the checkpoint at step {later[-1]} is damaged; going on from the one at "
                f"step {self.done}, to the same end",
                file=sys.stderr,
            )
        self._refuse_other_probes(arrays["state"])
        self.state, self.best_params = arrays["state"], arrays["best_params"]
        self.best, self.seconds, self.records = facts["best"], facts["seconds"], facts["records"]
        at, known = self.done % self.schedule.steps_per_epoch, len(facts["losses"][0])
        self._losses_SxT[:, at - known : at] = facts["losses"]
        self._batches.restore(facts["data"])
        return True

    def start_from(self, params_S: Any) -> None:
        """Starts with these parameters, of all seeds, in place of fresh ones."""
        params_S = place(self.mesh, params_S, BY_SEED)
        self.state = self._programs.with_params(self.state, params_S)
        self.best_params = self.params

    def _refuse_other_probes(self, saved: learning.TrainState) -> None:
        """Fixed probes, which networks have answered already, must be those of the checkpoint."""
        if learning.probes_are_fixed(saved):
            pair = [state.fixed.get("generator", {}) for state in (self.state, saved)]
            if not all(jax.tree.leaves(jax.tree.map(np.array_equal, *fetch(self.mesh, pair)))):
                raise UserError(
                    "the images that probes are taken from have changed since this run began; put "
                    "back those of then, or choose another folder with --workdir=DIR"
                )

    def _last_whole(self, steps: Sequence[int]) -> tuple[int, Any, dict[str, Any]]:
        """The last checkpoint that can be read: its step, arrays and facts."""
        faults = []
        for step in reversed(steps):
            try:
                like = {"state": self.state, "best_params": self.best_params}
                arrays, facts = self._checkpoints.restore(step, like)
                return step, arrays, typed(_Facts, facts, f"the checkpoint at step {step}")
            except UserError as error:
                faults.append(error)
                if jax.process_count() > 1:  # where the others may have read theirs
                    break
        raise faults[0]

    def run(self, log: MetricsLog | None, bar: Progress, interrupt: Interrupt) -> None:
        """Trains to the end, from wherever the training is.

        Args:
          log: gets a record at every boundary; None on all processes but the first.

        Raises:
          Stopped: asked to stop; what was done is saved.
          UserError: the loss is not finite, or a checkpoint cannot be written.
        """
        self._losses_SxT = place(self.mesh, self._losses_SxT, BY_SEED)
        self._started = time.monotonic() - self.seconds
        pace, stop = Pace(self.mesh), False
        # A step that waited for the host would be an error: what goes to the devices goes on
        # purpose.
        with (
            contextlib.ExitStack() as at_the_end,
            interrupt.hold(),
            jax.transfer_guard("disallow"),
        ):
            at_the_end.callback(self._batches.close)
            at_the_end.callback(self._checkpoints.close)
            for shown in filter(None, (log, bar)):
                at_the_end.callback(shown.close)
            while self.done < self.schedule.total_steps and not stop:
                made, reached = self._advance(pace.steps)
                # The stretch before is fetched only now, with this one already under way.
                self._finish(log, bar)
                stop = pace.look(self.state.step, made, interrupt.asked)
                self._pending = reached
                saved = stop or self.schedule.is_saved(self.done)
                # Where validation decides on the next steps, they have to wait for it.
                if saved or (self._follows and self.schedule.is_evaluated(self.done)):
                    self._finish(log, bar)
                if saved:
                    self._save(at_boundary=reached is not None)
            self.seconds = time.monotonic() - self._started
        if self.done < self.schedule.total_steps:
            raise Stopped(agreed=True)

    @property
    def params(self) -> Any:
        """What training has come to, of all seeds; see `Learner.improved`."""
        return self._programs.learner.improved(self.state)

    def outputs(self, split: str, params_S: Any) -> Float[np.ndarray, "S N O"]:
        """Every seed's outputs for the networks of a split, with the given parameters."""
        return evaluation.on_host(
            self.mesh, self._outputs(split, params_S), len(self.zoo.splits[split])
        )

    def _outputs(self, split: str, params_S: Any) -> list[Array]:
        """On the devices, where it may still be running."""
        return self._batches.outputs(self._programs, params_S, self.state.fixed, split)

    def _advance(self, most_steps: int) -> tuple[int, _Boundary | None]:
        """Makes steps, at most to the next boundary; returns how many, and what is due there."""
        schedule = self.schedule
        epoch, at = divmod(self.done, schedule.steps_per_epoch)
        stretch = self._batches.stretch(self._programs, epoch, at)
        boundary = schedule.next_boundary(self.done)
        made = min(boundary - self.done, stretch.stop - at, most_steps)
        bounds = [np.int32(step) for step in (stretch.first, at, at + made)]
        self.state, self._losses_SxT = self._programs.run_steps(
            self.state,
            self._losses_SxT,
            stretch.weights,
            stretch.targets_N,
            stretch.places_SxKxB,
            *place(self.mesh, bounds),
        )
        self.done += made
        val_outputs = None
        if schedule.is_evaluated(self.done):
            val_outputs = self._outputs("val", self.params)
        if self.done != boundary:
            return made, None
        record = {"step": self.done, "epoch": epoch + 1}
        rate_S = self._programs.last_rate(self.state) if self._follows else None
        return made, _Boundary(record, self._losses_SxT, self.params, val_outputs, rate_S)

    def _finish(self, log: MetricsLog | None, bar: Progress) -> None:
        """Fetches what was computed for the pending boundary, logs it, keeps the best."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        record, steps = pending.record, self.schedule.since_boundary(pending.record["step"])
        losses_SxK = fetch(self.mesh, pending.losses_SxT)[:, steps]
        record["train_loss"] = losses_SxK.mean(axis=1).tolist()
        if pending.rate_S is not None:
            record["learning_rate"] = fetch(self.mesh, pending.rate_S).tolist()
        if pending.val_outputs is not None:
            number = len(self.zoo.splits["val"])
            outputs = evaluation.on_host(self.mesh, pending.val_outputs, number)
            val = record[f"val_{self._metric_name}"] = self._score("val", outputs)
            self._keep_better(record["step"], val, pending.params_S)
        if not all(np.isfinite(record["train_loss"])):
            raise UserError(
                f"the training loss is {record['train_loss']} at step {record['step']}; try a "
                "lower --config.learning_rate, or look for extreme weights in the zoo"
            )
        self.records.append(record)
        if log is not None:
            log.write(record)
        bar.show(record)

    def _keep_better(self, step: int, val: list[float], params_S: Any) -> None:
        """Of each seed, the parameters that are best on validation."""
        better = [new > old for new, old in zip(val, self.best["val"], strict=True)]
        better_S = place(self.mesh, np.asarray(better), BY_SEED)
        self.best_params = self._programs.keep_better(better_S, params_S, self.best_params)
        if self._follows:
            self.state = self._programs.after_validation(self.state, better_S)
        self.best = {
            "step": np.where(better, step, self.best["step"]).tolist(),
            "val": np.where(better, val, self.best["val"]).tolist(),
        }

    def _save(self, at_boundary: bool) -> None:
        """Saves all that is needed to go on later; see the rules above."""
        not_told = slice(0, 0) if at_boundary else self.schedule.since_boundary(self.done)
        facts = {
            "best": self.best,
            "seconds": time.monotonic() - self._started,
            "losses": fetch(self.mesh, self._losses_SxT)[:, not_told].tolist(),
            "data": self._batches.position,
            "records": list(self.records) if jax.process_index() == 0 else [],
            **self._identity,
        }
        arrays = {"state": self.state, "best_params": self.best_params}
        self._checkpoints.save(self.done, arrays, facts)
