"""The user's cache folder, and the programs that jax compiles, which are kept there.

Imports no jax: what is set here has to be in the environment before jax looks.
"""

import hashlib
import os
import pathlib
import platform
import sys


def default_dir() -> pathlib.Path:
    """`$XDG_CACHE_HOME/probegen_jax`, or `~/.cache/probegen_jax`."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "probegen_jax"


def data_folder(data_dir: str | None) -> pathlib.Path:
    """The folder that the setting `data_dir` names; `default_dir()` if None."""
    return pathlib.Path(data_dir).expanduser() if data_dir else default_dir()


def keep_compiled() -> None:
    """Makes jax keep programs that take long to compile, so that the next run starts at once.

    Where `JAX_COMPILATION_CACHE_DIR` says, or in `default_dir()`, in a folder for each kind of CPU:
    programs compiled for one may not run on another, and homes are shared between machines.
    `JAX_ENABLE_COMPILATION_CACHE=false` turns it off. A folder that cannot be written only costs
    time, and is reported in one line.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = default_dir() / f"compiled-{cpu()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        print(
            f"compiled programs are not kept: {folder} cannot be written; name another folder in "
            "JAX_COMPILATION_CACHE_DIR",
            file=sys.stderr,
        )
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def cpu() -> str:
    """A short hash of what this machine's CPU can do."""
    facts = platform.machine() + platform.processor()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        facts += next(
            (line for line in lines if line.lower().startswith(("flags", "features"))), ""
        )
    return hashlib.sha256(facts.encode()).hexdigest()[:8]
