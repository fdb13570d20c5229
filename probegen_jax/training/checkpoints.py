"""Checkpoints through Orbax: written beside, then renamed, so that a kill leaves whole ones.

On object storage, such as gs://bucket/run, Orbax has its own way to tell whole ones.
"""

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from probegen_jax.errors import UserError

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
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(folder, options=options)

    def latest_step(self) -> int | None:
        """The last step that was saved whole, or None."""
        return self._manager.latest_step()

    def save(self, step: int, arrays: Any, facts: dict[str, Any]) -> None:
        """Saves in the background, unless `step` is saved; a call waits for the one before it."""
        if step == self._manager.latest_step():
            return
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave(arrays), facts=ocp.args.JsonSave(facts)
                ),
            )

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """What `save` got at `step`, bit for bit.

        Args:
          like: an array tree of the shapes and types expected.

        Raises:
          UserError: the files are damaged, or hold other shapes.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardRestore(abstract), facts=ocp.args.JsonRestore()
                ),
            )
        except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"cannot read the checkpoint {self.folder / str(step)} ({first_line:.200}); "
                "delete that folder to go on from the checkpoint before it, or the whole run "
                "folder to start again"
            ) from error
        return restored["arrays"], restored["facts"]

    def close(self) -> None:
        """Waits for saves under way.

        Raises:
          UserError: one of them has failed.
        """
        with self._writing():
            self._manager.close()

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
