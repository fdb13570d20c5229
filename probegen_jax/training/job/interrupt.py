"""How a job is asked to stop, and how often it looks whether it was."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from probegen_jax.errors import Stopped
from probegen_jax.training.mesh import EVERYWHERE, send

# Seconds between two looks: schedulers give half a minute from SIGTERM to SIGKILL, or more.
_PERIOD = 1.0


class Interrupt:
    """SIGTERM: it ends the process at once, but while held it only leaves a note in `asked`."""

    def __init__(self) -> None:
        self.asked = False
        self._held = False

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Raises `Stopped` where the signal finds the main thread."""
        before = signal.signal(signal.SIGTERM, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """While there is something to save first."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self._held:
            raise Stopped


class Pace:
    """Tells when to stop, and how many steps to make before the next look.

    A look waits for the stretch of steps before the one just begun, so the devices are never idle,
    and what hosts tell each other reaches all of them at the same step.
    """

    def __init__(self, mesh: Mesh):
        self.steps = 1
        self._mesh = mesh
        self._pending: tuple[Any, int] | None = None
        self._ready_at = self._seconds = 0.0
        axes = tuple(mesh.axis_names)
        self._split = NamedSharding(mesh, P(axes))
        self._worst = jax.jit(
            # Of `step` only that it is there: it orders this after the steps.
            lambda told_Dx2, step: jnp.max(told_Dx2, axis=0),
            out_shardings=NamedSharding(mesh, EVERYWHERE),
        )

    def look(self, step: jax.Array, made: int, asked: bool) -> bool:
        """Waits for the stretch of steps before the one just begun.

        Args:
          step: `TrainState.step` as the stretch just begun will leave it.

        Returns:
          Whether any host was, as of the look before.
        """
        stop = False
        told = self._tell(step, asked)
        if self._pending is not None:
            before, its_steps = self._pending
            stop, seconds = jax.device_get(before).tolist()
            now = time.monotonic()
            if self._ready_at:
                self._seconds = (now - self._ready_at) / its_steps
            self._ready_at = now
            if seconds:
                self.steps = max(1, min(int(_PERIOD / seconds), 4 * self.steps))
        self._pending = told, made
        return bool(stop)

    def _tell(self, step: jax.Array, asked: bool) -> jax.Array:
        row = np.asarray([[asked, self._seconds]], np.float32)
        shape = (self._mesh.size, 2)
        told_Dx2 = send(shape, self._split, lambda index: row)
        return self._worst(told_Dx2, step)
