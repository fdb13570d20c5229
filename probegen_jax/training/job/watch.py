"""Processes of a job watch each other: none goes on, or waits, where another is gone."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable

import jax
from jax._src.distributed import global_state  # where orbax and flax find the service's client, too

from probegen_jax import errors

# A process without a sign of life at this many looks of another is taken for dead. Looks are
# counted, not seconds: the process that looks may itself have been suspended.
_PERIOD, _LIMIT = 1.0, 25


class Watch:
    """Gives signs of life, and ends this process when another is dead or has failed."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The job ends in order."""
        self._stopped.set()
        self._thread.join()

    def leave(self, error: BaseException) -> None:
        """Ends this process, which failed alone, and tells the others why. Does not return."""
        if isinstance(error, jax.errors.JaxRuntimeError):
            # Most likely an exchange with a process that is dead: then the watch will find out.
            self._thread.join(_PERIOD * _LIMIT + 5)
        self._stopped.set()
        code = errors.report(error)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        me = jax.process_index()
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the coordinator may be the dead one
            _set(f"probegen/ended/{me}", reason)
            if me == 0:
                _set("probegen/over", _of(me, f"has failed: {reason}"))
                time.sleep(3 * _PERIOD)  # until the others have read it: the service ends with us
        _exit(code)

    def _run(self) -> None:
        me, count = jax.process_index(), jax.process_count()
        seen: dict[int, tuple[str, int]] = {}
        beat = 0
        while not self._stopped.wait(_PERIOD):
            beat += 1
            try:
                _set(f"probegen/alive/{me}", str(beat))
                over = dict(_get("probegen/over")) or self._verdict(
                    seen, range(1, count) if me == 0 else [0]
                )
            except jax.errors.JaxRuntimeError:
                if self._stopped.is_set():
                    return
                over = {"": _of(0, "is gone: the coordination service does not answer")}
            if over and not self._stopped.is_set():
                message = next(iter(over.values()))
                if me == 0:
                    with contextlib.suppress(jax.errors.JaxRuntimeError):
                        _set("probegen/over", message)
                        time.sleep(3 * _PERIOD)
                print(
                    f"error: {message}; start the job again with the same command, and it goes on "
                    "from the last checkpoint",
                    file=sys.__stderr__,
                )
                _exit(errors.EXIT_PEER_ENDED)

    def _verdict(self, seen: dict[int, tuple[str, int]], others: Iterable[int]) -> dict[str, str]:
        """Who has failed or died, if anyone."""
        ended = _get("probegen/ended/")
        for key, reason in ended.items():
            return {key: _of(int(key.rpartition("/")[2]), f"has failed: {reason}")}
        beats = _get("probegen/alive/")
        for other in others:
            beat = beats.get(f"probegen/alive/{other}", "")
            before, looks = seen.get(other, (None, 0))
            seen[other] = (beat, looks + 1 if beat == before else 0)
            if seen[other][1] >= _LIMIT:
                seconds = _LIMIT * _PERIOD
                return {"": _of(other, f"has given no sign of life for {seconds:.0f} s")}
        return {}


def _set(key: str, value: str) -> None:
    global_state.client.key_value_set(key, value, allow_overwrite=True)


def _get(prefix: str) -> dict[str, str]:
    return dict(global_state.client.key_value_dir_get(prefix))


def _of(process: int, what: str) -> str:
    return f"process {process} of {jax.process_count()} {what}"


def _exit(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
