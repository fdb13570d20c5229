"""Checkpoints through Orbax: written beside, then renamed, so that a kill leaves whole ones.

On object storage, such as gs://bucket/run, Orbax has its own way to tell whole ones.
"""

import contextlib
import dataclasses
import gc
import json
import logging
import os
import pathlib
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from probegen_jax import typed_json
from probegen_jax.errors import UserError
from probegen_jax.method.learning import TrainState
from probegen_jax.training.mesh import fetch

# How systems say that there is no writing here; TensorStore passes it on within longer texts.
_REASONS = (
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
    "Read-only file system",
    "Permission denied",
    "Not a directory",
)

_REMOTE = re.compile(r"\w+://")
_UNFINISHED = ".orbax-checkpoint-tmp"  # in names of folders


def folder_of(run_folder: pathlib.Path, checkpoint_dir: str | None) -> epath.Path:
    """Where a run's checkpoints are: in its folder, unless its config says where else."""
    return epath.Path(checkpoint_dir or run_folder / "checkpoints")


def local_folder(run_folder: pathlib.Path, checkpoint_dir: str | None) -> pathlib.Path | None:
    """Where a run's checkpoints are, if that is no object storage; see `folder_of`."""
    folder = os.fspath(folder_of(run_folder, checkpoint_dir))
    return None if _REMOTE.match(folder) else pathlib.Path(folder)


def clear(folder: pathlib.Path, keep: int) -> None:
    """Removes what a process that was killed left behind: half of one checkpoint, too many others.

    Only for who trains there, before there are `Checkpoints`.

    Args:
      keep: how many of the latest steps stay. Of one before them half may have been deleted.
    """
    if not folder.is_dir():
        return
    steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    surplus = [folder / str(step) for step in steps[:-keep]]
    for path in (*surplus, *folder.glob(f"*{_UNFINISHED}*")):
        shutil.rmtree(path)


class Checkpoints:
    """The checkpoints of one run: an array tree and a small JSON-like dict per step."""

    def __init__(self, folder: epath.PathLike, keep: int = 2):
        """Args:
        folder: made if missing; see `folder_of`.
        keep: how many of the latest steps stay.
        """
        self.folder = folder = epath.Path(folder)
        if not _REMOTE.match(os.fspath(folder)):
            folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        try:
            with self._writing():
                folder.mkdir(parents=True, exist_ok=True)
                with _quiet():
                    self._manager = ocp.CheckpointManager(folder, options=options)
        except UserError:
            raise
        except Exception as error:  # Orbax reads what every checkpoint says of itself
            said = "a checkpoint's _CHECKPOINT_METADATA"
            raise _damaged(f"{said} in {folder}", "its folder", error) from error

    def latest_step(self) -> int | None:
        """The last step that was saved whole, or None."""
        return self._manager.latest_step()

    def save(self, step: int, arrays: Any, facts: dict[str, Any]) -> None:
        """Saves in the background, unless `step` is saved; a call waits for the one before it.

        All processes of a job must call it together.
        """
        if step == self._manager.latest_step():
            return
        facts = typed_json.signed(facts, *_contents(arrays))
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave(arrays), facts=ocp.args.JsonSave(facts)
                ),
            )

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """What `save` got at `step`, bit for bit; all processes of a job must call it together.

        Args:
          like: an array tree of the shapes and types expected.

        Raises:
          UserError: the files are damaged, or hold other shapes.
        """
        with self._reading(step):
            return self._whole(step, jax.tree.map(ocp.utils.to_shape_dtype_struct, like))

    def _whole(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """Arrays and facts; `ValueError` if they are not those that were signed."""
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardRestore(like), facts=ocp.args.JsonRestore()
            ),
        )
        arrays, facts = restored["arrays"], restored["facts"]
        # Neither JSON nor the compression of the arrays notices a bit that has flipped.
        if not isinstance(facts, dict) or not typed_json.is_as_signed(facts, *_contents(arrays)):
            raise ValueError("it holds other values than were saved")
        facts.pop(typed_json.DIGEST, None)
        return arrays, facts

    def arrays(self, step: int) -> Any:
        """The arrays that `save` got at `step`, whatever their shapes; named tuples are dicts.

        They come to the host, on whatever devices they were.

        Raises:
          UserError: the files are damaged.
        """
        with self._reading(step):
            with contextlib.closing(ocp.StandardCheckpointer()) as reader:
                saved = reader.metadata(self.folder / str(step) / "arrays").item_metadata.tree
            like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), _as_saved(saved))
            return self._whole(step, like)[0]

    def facts(self, step: int) -> dict[str, Any]:
        """The dict that `save` got at `step`, without a look at the arrays."""
        with self._reading(step):  # as a process of a job can do alone
            path = self.folder / str(step) / "facts" / "metadata"
            return dict(json.loads(path.read_text()))

    def known_facts(self) -> dict[str, Any] | None:
        """The facts of the last step whose facts can be read; None if there is none."""
        for step in reversed(self.steps()):
            with contextlib.suppress(UserError):
                return self.facts(step)
        return None

    def steps(self) -> list[int]:
        """All steps that are there, the first one first."""
        return sorted(self._manager.all_steps())

    def delete(self, step: int) -> None:
        """Deletes a checkpoint; a later `save` may write the step again."""
        with self._writing():
            self._manager.delete(step)

    def close(self) -> None:
        """Waits for saves under way.

        Raises:
          UserError: one of them has failed.
        """
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Tells of a checkpoint that is damaged in one line."""
        try:
            with _quiet():
                yield
        except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
            where = f"the checkpoint {self.folder / str(step)}"
            raise _damaged(where, "that folder", error) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Tells of a disk that is full or read-only in one line."""
        try:
            yield
        except ImportError as error:  # the address of a bucket, and no library to speak to it
            raise UserError(f"cannot reach {self.folder}: {error}") from error
        # OSError from files, ValueError from TensorStore, RuntimeError from its threads.
        except (OSError, ValueError, RuntimeError) as error:
            told = [str(each) for each in (error, error.__cause__, error.__context__) if each]
            reason = next((known for known in _REASONS if known in " ".join(told)), None)
            if reason is None and not isinstance(error, OSError):
                raise
            raise UserError(
                f"cannot write a checkpoint to {self.folder} ({reason or error}); free some "
                "space or choose another folder with --workdir=DIR; checkpoints that are whole "
                "stay, and the same command goes on from the last"
            ) from error


def _damaged(what: str, remedy: str, error: Exception) -> UserError:
    """What cannot be read, and what to delete."""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(
        f"cannot read {what} ({first_line:.200}); delete {remedy}, and result.json of a finished "
        "run: the command that trained it goes on from the checkpoint before it, or starts again"
    )


def _contents(arrays: Any) -> Iterator[bytes]:
    """The bytes of every array, whole, on every process."""
    for leaf in jax.tree.leaves(arrays):
        # Then it is on a mesh of several processes.
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = fetch(leaf.sharding.mesh, leaf)
        whole = np.asarray(jax.device_get(leaf))
        yield f"{whole.dtype} {whole.shape}".encode() + whole.tobytes()


def _as_saved(tree: Any) -> Any:
    """What Orbax knows of a tree, so that jax takes its leaves in the order of the tree itself."""
    if isinstance(tree, list):
        return [_as_saved(each) for each in tree]
    if not isinstance(tree, dict):
        return tree
    tree = {int(key) if key.isdigit() else key: _as_saved(each) for key, each in tree.items()}
    fields = {field.name for field in dataclasses.fields(TrainState)}
    return TrainState(**tree) if tree.keys() == fields else tree


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps off the screen what Orbax's threads and coroutines say of a file that is damaged."""
    loggers = {name: logging.getLogger(name) for name in ("absl", "asyncio")}
    levels = {name: logger.level for name, logger in loggers.items()}
    places = ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook"))
    hooks = {place: getattr(*place) for place in places}
    try:
        for logger in loggers.values():
            logger.setLevel(logging.CRITICAL)
        for place in hooks:
            setattr(*place, lambda *_: None)
        yield
    except Exception:
        gc.collect()  # what is left of a failed read speaks when it goes
        hooks = {place: _but_for_late_words(hook) for place, hook in hooks.items()}
        raise
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
        for place, hook in hooks.items():
            setattr(*place, hook)


def _but_for_late_words(hook: Any) -> Any:
    """A hook for exceptions that leaves out what threads of a failed read say after its end."""

    def told(*said: Any) -> None:  # the kind, the exception and its trace; or one object of these
        error = said[1] if len(said) == 3 else said[0].exc_value
        if str(error) != "Event loop is closed":
            hook(*said)

    return told
