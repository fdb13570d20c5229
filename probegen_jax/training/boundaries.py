"""The boundaries between stretches of steps, at which a training is looked at and saved."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What happens at which step."""

    steps_per_epoch: int
    total_steps: int
    eval_every: int
    checkpoint_every: int

    @classmethod
    def of(
        cls, networks: int, batch_size: int, epochs: int, eval_every: int, checkpoint_every: int
    ) -> "Schedule":
        """That of a training on so many networks."""
        steps = -(-networks // batch_size)
        return cls(steps, steps * epochs, eval_every, checkpoint_every)

    @property
    def _intervals(self) -> tuple[int, int, int]:
        return self.steps_per_epoch, self.eval_every, self.checkpoint_every

    def next_boundary(self, step: int) -> int:
        """The first boundary after `step`: the end of an epoch, an evaluation or a checkpoint."""
        return min(step - step % every + every for every in self._intervals)

    def since_boundary(self, step: int) -> slice:
        """Of an epoch's steps, those from the last boundary before `step` up to it."""
        last = (step - 1) % self.steps_per_epoch
        return slice(last - min((step - 1) % every for every in self._intervals), last + 1)

    def is_evaluated(self, step: int) -> bool:
        """Whether the model is validated after `step`."""
        return step % self.eval_every == 0 or step == self.total_steps

    def is_saved(self, step: int) -> bool:
        """Whether there is a checkpoint after `step`."""
        return step % self.checkpoint_every == 0 or step == self.total_steps
