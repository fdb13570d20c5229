"""Which of the prepared zoos is the one that was asked for.

A prepared zoo notes what it was made of: the address and checksum of the archive, or a listing of
the user's files; and the official split. Where none was made of what is asked for, another one is
prepared beside those that are there.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from probegen_jax.errors import UserError
from probegen_jax.files import UNREADABLE, read_json
from probegen_jax.zoo import splits
from probegen_jax.zoo.files.download import noted_checksum
from probegen_jax.zoo.prepared import builders, checksums

# Where a second zoo of one name is prepared: in a folder for each, which TFDS takes for a data_dir.
BESIDE = "beside"


class Prepared(NamedTuple):
    """A prepared zoo, as its folder says.

    Attributes:
      data_dir: TFDS's name for the folder in which it has its place.
      source: the folder or the archive that it was made from.
      made_of: see `ZooBuilder`; empty where an earlier version prepared it.
      splits: digest of the official split; None if there was no file of it.
      at: when that was done.
    """

    data_dir: pathlib.Path
    folder: pathlib.Path
    source: pathlib.Path
    made_of: Mapping[str, Any]
    splits: str | None
    at: float

    @property
    def origin(self) -> str:
        """Where it is from, for messages."""
        return str(self.made_of.get("url", self.source))


class Asked:
    """What is asked for, and what there is of it."""

    def __init__(self, cls: type[builders.ZooBuilder], request: builders.Request):
        """Raises a `UserError` if files that the request names are not there."""
        self._cls, self._request = cls, request
        self._official = builders.find_splits_file(cls, request)
        self._splits = None if self._official is None else splits.fingerprint(self._official)
        folder = request.manual_dir
        self._source = None if folder is None else cls.find_source(folder)
        self._listing = None if self._source is None else self._source.listing()

    @property
    def has_official_split(self) -> bool:
        """Whether the user has a file of the official split."""
        return self._official is not None

    def fits(self, zoo: Prepared, split: str) -> bool:
        """Whether a prepared zoo was made of what is asked for, as far as that is there."""
        request, made_of = self._request, zoo.made_of
        if split != "seeded" and self._splits not in (None, zoo.splits):
            return False
        if request.manual_dir is not None:
            if self._source is None:  # it is gone; was this one made of what lay there?
                top = request.manual_dir.resolve()
                places = (top, top.parent) if top.name == self._cls.TOP else (top,)
                return zoo.source in places or top in zoo.source.parents
            if made_of:
                return made_of.get("files") == self._listing.digest
            return zoo.source == self._source.where and self._listing.newest <= zoo.at
        if request.sha256 is not None:
            known = made_of.get("sha256") or _noted(zoo.source)
            return known == request.sha256.lower()
        return request.url is None or made_of.get("url") == request.url

    def choose(self, zoos: list[Prepared], split: str) -> Prepared | None:
        """The prepared zoo to use; None if another is to be prepared.

        Raises:
          UserError: nothing says which of several is meant.
        """
        name, request = self._cls.name, self._request
        fitting = sorted((zoo for zoo in zoos if self.fits(zoo, split)), key=lambda zoo: zoo.at)
        if not fitting:
            return None
        zoo, told = fitting[-1], None
        if request.manual_dir is not None and self._source is None:
            told = f"{request.manual_dir} no longer has the zoo"
        elif request.manual_dir is None and not (request.url or request.sha256):
            address = self._cls.ADDRESS.url
            published = [zoo for zoo in fitting if zoo.made_of.get("url") == address]
            origins = sorted({zoo.origin for zoo in fitting})
            if published:
                zoo = published[-1]
            elif len(origins) > 1:
                raise UserError(
                    f"{name}: zoos of {', '.join(origins)} are prepared; say which is meant with "
                    "--config.manual_dir=DIR or --config.download_url=URL"
                )
            else:
                told = "no manual_dir or download_url is given"
        if told:
            print(f"{name}: {told}; using what was prepared from {zoo.origin}, in {zoo.folder}")
        return zoo

    def place(self, data_dir: pathlib.Path, zoos: list[Prepared]) -> pathlib.Path:
        """TFDS's `data_dir` for a zoo that is to be prepared; tells of those that are there."""
        if zoos:
            origins = ", ".join(sorted({zoo.origin for zoo in zoos}))
            print(f"{self._cls.name}: what is prepared was made of other files, from {origins}")
        if not any(zoo.data_dir == data_dir for zoo in zoos):
            return data_dir
        request = self._request
        of = (self._listing and self._listing.digest, request.url, request.sha256, self._splits)
        return data_dir / BESIDE / hashlib.sha256(json.dumps(of).encode()).hexdigest()[:12]


def prepared(
    cls: type[builders.ZooBuilder], data_dir: pathlib.Path, split: str
) -> Iterator[Prepared]:
    """The prepared zoos of a name and a split; a `UserError` at one that is damaged."""
    for place in (data_dir, *sorted((data_dir / BESIDE).glob("*"))):
        folder = place / cls.name / split / str(cls.VERSION)
        if not folder.exists():
            continue
        try:
            checksums.check(folder, data=False)
            noted = read_json(folder / "metadata.json")
            if "skipped" not in noted:
                raise ValueError("its metadata.json is incomplete")
            yield Prepared(
                place,
                folder,
                pathlib.Path(noted["source"]),
                dict(noted.get("made_of", {})),
                noted["splits_sha256"],
                (folder / "dataset_info.json").stat().st_mtime,
            )
        except (UserError, *UNREADABLE) as error:
            raise builders.damaged(folder, error) from error


def _noted(archive: pathlib.Path) -> str | None:
    """The checksum of an archive that an earlier version downloaded, while it is there."""
    return noted_checksum(archive) if archive.with_name(f"{archive.name}.sha256").exists() else None
