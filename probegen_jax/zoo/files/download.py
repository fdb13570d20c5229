"""Fetching an archive: all of it under its name, or nothing."""

import dataclasses
import pathlib
import shutil
import zipfile

import requests
import tensorflow_datasets as tfds

from probegen_jax import locks
from probegen_jax.errors import UserError
from probegen_jax.files import sha256_of


@dataclasses.dataclass(frozen=True)
class Address:
    """Where an archive is published.

    Attributes:
      sha256: of its content, in hex; None where the publisher states none. Archives also hold
        checksums of their own, which reading checks.
      zipped: whether it is refused on arrival unless it is a zip archive.
      by_hand: where a user can put the file instead of downloading it, for messages.
    """

    url: str
    filename: str
    sha256: str | None = None
    zipped: bool = False
    by_hand: str = "a folder and give it with --config.manual_dir=DIR"
    data_dir: str = "--config.data_dir=DIR"


def fetch(address: Address, folder: pathlib.Path) -> pathlib.Path:
    """Downloads an archive with TFDS's download manager, unless it is in `folder` already.

    Of several processes one downloads, and the others wait.

    Returns:
      The archive's path. Its SHA-256 lies beside it, in `<name>.sha256`.

    Raises:
      UserError: no connection, a connection that broke, another checksum, no space. Nothing is
        left behind then.
    """
    target = folder / address.filename
    try:
        if not target.is_file():
            lock = target.with_name(f".{target.name}.lock")
            with locks.lock(lock, f"downloads {target}"):
                if not target.is_file():
                    _download(address, target)
                    return target
    except (requests.RequestException, tfds.download.DownloadError) as error:
        raise _broken(address, _reason(error)) from error
    except OSError as error:
        raise UserError(
            f"cannot write {target} ({error.strerror or error}); free some space, or choose "
            f"another folder with {address.data_dir}"
        ) from error
    _check_kept(target, address.sha256)
    return target


def noted_checksum(archive: pathlib.Path) -> str:
    """The SHA-256 of an archive that was fetched, as it was noted then."""
    noted = _beside(archive)
    words = noted.read_text(encoding="utf-8", errors="replace").split() if noted.is_file() else []
    return words[0] if words else sha256_of(archive)


def _beside(archive: pathlib.Path) -> pathlib.Path:
    return archive.with_name(f"{archive.name}.sha256")


def _download(address: Address, target: pathlib.Path) -> None:
    # A folder of its own, so that what a broken connection leaves can be removed as a whole.
    partial = target.with_name(f"partial.{target.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a killed process
        partial.mkdir()
        _knock(address)
        manager = tfds.download.DownloadManager(download_dir=partial)
        path = pathlib.Path(manager.download(address.url))
        checksum = sha256_of(path)
        if address.sha256 is not None and checksum != address.sha256.lower():
            found = f"SHA-256 {checksum}, expected {address.sha256}"
            raise UserError(f"{address.url}: the download has {found}; {_again(address)}")
        if address.zipped and not zipfile.is_zipfile(path):
            raise UserError(f"what {address.url} sent is not a zip; {_again(address)}")
        _beside(target).write_text(f"{checksum}  {target.name}\n")
        path.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _knock(address: Address) -> None:
    """Finds out in seconds that there is no connection or no file; TFDS retries for minutes."""
    with requests.get(address.url, stream=True, timeout=60) as response:
        if response.status_code != 200:
            answer = f"{response.status_code} {response.reason}"
            raise _broken(address, f"the server answers {answer}")


def _check_kept(target: pathlib.Path, sha256: str | None) -> None:
    """Refuses an archive of an earlier download whose noted checksum is not the one asked for."""
    if sha256 is not None and (checksum := noted_checksum(target)) != sha256.lower():
        raise UserError(
            f"{target}: has SHA-256 {checksum}, expected {sha256}; delete it and run again"
        )


def _broken(address: Address, reason: str) -> UserError:
    return UserError(f"{address.url}: the download failed ({reason}); {_again(address)}")


def _again(address: Address) -> str:
    return f"run again, or fetch {address.filename} by hand into {address.by_hand}"


def _reason(error: Exception) -> str:
    if "IncompleteRead" in str(error):
        return "the connection broke half-way"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return " ".join(str(error).split()).rstrip(".")
