"""Where the files of a published zoo are: a folder, or the archive as it was downloaded."""

import contextlib
import functools
import hashlib
import io
import os
import pathlib
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.files import UNREADABLE

# Of a file inside an archive that is unpacked into memory as a whole.
MOST_BYTES = 2**30
_FREE = 2**26  # what a file may unpack to whatever its size
_AGAIN = "delete the archive and fetch it again"


class Listing(NamedTuple):
    """What some files are, told from their names, sizes and times; none is read.

    Attributes:
      digest: another one where a file was added, removed or written to. It stays where their folder
        is moved.
      newest: when the last of them changed, in seconds of the system's clock.
    """

    digest: str
    newest: float


def listing(files: Iterable[tuple[str, os.stat_result]]) -> Listing:
    """The listing of files by name."""
    # The time of the last change to a file, which, unlike that of its content, nobody can set.
    found = [(name, stat.st_size, stat.st_ctime_ns) for name, stat in files]
    digest = hashlib.sha256(repr(sorted(found)).encode()).hexdigest()
    return Listing(digest, max((time for *_, time in found), default=0) / 1e9)


def _below(top: str) -> Iterator[tuple[str, os.DirEntry]]:
    """Files below a folder, by their path from there; links are followed, but not in circles."""
    waiting, seen = [("", top)], set()
    while waiting:
        prefix, folder = waiting.pop()
        with contextlib.suppress(OSError):  # a folder that cannot be read has no files
            stat = os.stat(folder)
            if (stat.st_dev, stat.st_ino) in seen:  # a link back to it
                continue
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        waiting.append((f"{prefix}{entry.name}/", entry.path))
                    else:
                        yield f"{prefix}{entry.name}", entry


class Folder:
    """Files below `root/top`, named by their path from `root`."""

    def __init__(self, root: pathlib.Path, top: str):
        self.where = root.resolve()
        self._top = top
        self._read: dict[tuple[int, int], str] = {}

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """Of all files, as `top/...`."""
        return frozenset(f"{self._top}/{name}" for name, _ in _below(str(self.where / self._top)))

    def listing(self) -> Listing:
        """Of all files; a broken link counts as a file that is not there."""
        there = ((name, _stat(entry)) for name, entry in _below(str(self.where / self._top)))
        return listing((name, stat) for name, stat in there if stat is not None)

    def read(self, name: str) -> bytes:
        """The content of a file; a `UserError` if it was read under another name, by a link."""
        path = self.where / name
        try:
            with path.open("rb") as file:
                stat, content = os.fstat(file.fileno()), file.read()
        except OSError as error:
            raise BadNetworkError(str(path), f"cannot be read ({error.strerror})") from error
        other = self._read.setdefault((stat.st_dev, stat.st_ino), name)
        if other != name:
            raise UserError(
                f"{self.where}: {other} and {name} are the same file; delete one of them"
            )
        return content


class _Archive:
    """Files below `top` in an archive, which is read in place."""

    def __init__(self, path: pathlib.Path, top: str, members: Iterable[tuple[str, Any]]):
        """Args:
        members: of all files in it, the path and what `read` needs.
        """
        self.where = path.resolve()
        self._members = {
            from_top(name, top): member for name, member in members if f"/{top}/" in f"/{name}"
        }

    @functools.cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self._members)

    def listing(self) -> Listing:
        """Of the archive itself."""
        return listing([("", self.where.stat())])


class Zip(_Archive):
    """Files in a zip archive."""

    def __init__(self, path: pathlib.Path, top: str):
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path}: is not a complete zip archive ({error}); delete it and fetch it again"
            ) from error
        members = self._archive.infolist()
        files = [(each.filename, each) for each in members if not each.filename.endswith("/")]
        super().__init__(path, top, files)

    def read(self, name: str) -> bytes:
        """The content of a file; the archive's own checksum is checked."""
        member, where = self._members[name], f"{self.where}: {name}"
        if member.file_size > MOST_BYTES:
            raise BadNetworkError(where, _unpacks_to(member.file_size))
        try:
            return self._archive.read(member)
        except UNREADABLE as error:
            raise BadNetworkError(where, f"cannot be unpacked ({error})", _AGAIN) from error


class Tar(_Archive):
    """Files in a tar archive without compression."""

    def __init__(self, path: pathlib.Path, top: str):
        try:
            with tarfile.open(path, "r:") as archive:
                files = [
                    (member.name, (member.offset_data, member.size))
                    for member in archive
                    if member.isreg() and not member.issparse()
                ]
        except (OSError, tarfile.TarError) as error:
            raise UserError(
                f"{path}: is not a complete tar archive without compression ({error}); fetch it "
                "again or, if it is compressed, unpack it"
            ) from error
        super().__init__(path, top, files)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        (offset, size), where = self._members[name], f"{self.where}: {name}"
        if size > MOST_BYTES:
            raise BadNetworkError(where, _unpacks_to(size))
        try:
            with self.where.open("rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise BadNetworkError(where, f"cannot be read ({error.strerror})") from error
        if len(content) < size:
            raise BadNetworkError(where, "is cut off", _AGAIN)
        return content


def _stat(entry: os.DirEntry) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:
        return None


Source = Folder | Zip | Tar


def opened(path: pathlib.Path, top: str) -> Zip | Tar:
    """An archive; what kind it is, its content says before its name does.

    Raises:
      UserError: it is not a complete archive of its kind.
    """
    try:
        with path.open("rb") as file:
            start = file.read(262)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if start[257:] == b"ustar" or (path.suffix == ".tar" and start[:2] != b"PK"):
        return Tar(path, top)
    return Zip(path, top)


def members_of(content: bytes) -> list[zipfile.ZipInfo]:
    """What a torch file holds; nothing where it is no zip, or one that torch will refuse."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return []


def refuse_bomb(content: bytes, network: str) -> None:
    """Refuses a torch file that unpacks to far more than it is; torch itself packs nothing."""
    unpacked = sum(member.file_size for member in members_of(content))
    if unpacked > _FREE + 2 * len(content):
        raise BadNetworkError(network, _unpacks_to(unpacked))


def _unpacks_to(size: int) -> str:
    return f"unpacks to {size:,} bytes, as no network does"


def from_top(name: str, top: str) -> str:
    """A path from its folder `top` on, which is where all listings agree."""
    return name[f"/{name}".rindex(f"/{top}/") :] if f"/{top}/" in f"/{name}" else name


def find(manual_dir: pathlib.Path, top: str, archive: str) -> Source | None:
    """The zoo in a folder of the user: `top/`, its archive, as zip or tar, or None."""
    if (manual_dir / top).is_dir():
        return Folder(manual_dir, top)
    if manual_dir.name == top and manual_dir.is_dir():
        return Folder(manual_dir.parent, top)
    path = manual_dir / archive
    for each in (path, path.with_suffix(".zip"), path.with_suffix(".tar")):
        if each.is_file():
            return opened(each, top)
    return None
