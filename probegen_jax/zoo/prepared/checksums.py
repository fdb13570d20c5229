"""`SHA256SUMS` of a prepared zoo: what its files were when they were written.

The files' own checksums leave room: numbers in JSON have none, and whole files can be exchanged.
`sha256sum --check SHA256SUMS` reads the same file. Zoos of earlier versions have none.
"""

import pathlib

from probegen_jax.files import sha256_of

FILE = "SHA256SUMS"


def write(folder: pathlib.Path) -> None:
    """Notes the checksums of a data set's files; to be called once all are written."""
    files = sorted(
        path for path in folder.iterdir() if _is_data(path.name) or path.suffix == ".json"
    )
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in files]
    (folder / FILE).write_text("".join(lines), encoding="utf-8")


def check(folder: pathlib.Path, *, data: bool) -> None:
    """Compares files with what is noted, if anything is: those of networks, or else the JSON files.

    Raises:
      ValueError: names the first file that is missing, another one, or not noted.
    """
    if not (folder / FILE).exists():
        return
    lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    noted = {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}
    here = {path.name for path in folder.iterdir() if _is_data(path.name)}
    for name in sorted(noted.keys() | here):
        if _is_data(name) != data:
            continue
        if "/" in name or not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if noted.get(name) != sha256_of(folder / name):
            raise ValueError(f"{name} is not as it was written")


def _is_data(name: str) -> bool:
    return ".array_record" in name
