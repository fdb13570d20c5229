"""What the builders share: the request, bad networks, and preparing all or nothing."""

import abc
import contextlib
import dataclasses
import hashlib
import io
import itertools
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.zoo import splits
from probegen_jax.zoo.bad_networks import Skipped
from probegen_jax.zoo.files import archives
from probegen_jax.zoo.files.arrays import Notes
from probegen_jax.zoo.files.download import Address, fetch, noted_checksum
from probegen_jax.zoo.prepared import checksums
from probegen_jax.zoo.zoo import SPLITS

SKIPPED_FILE = "skipped.tsv"


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asked for when a zoo is prepared.

    Attributes:
      manual_dir: folder with the published files; they are downloaded if None.
      splits_file: the official split; looked for in `manual_dir` if None.
      skip_bad: leave bad networks out, and list them, instead of stopping.
    """

    manual_dir: pathlib.Path | None = None
    splits_file: pathlib.Path | None = None
    skip_bad: bool = False
    url: str | None = None
    sha256: str | None = None


class LocalInfo(tfds.core.DatasetInfo):
    """Of a data set that TFDS's own bucket does not have; its files' checksums are noted."""

    def write_to_directory(self, dataset_info_dir: Any, all_metadata: bool = True) -> None:
        """What TFDS does last, in the folder that is to become the data set's."""
        super().write_to_directory(dataset_info_dir, all_metadata)
        checksums.write(pathlib.Path(dataset_info_dir))

    def initialize_from_bucket(self) -> None:
        """Looks nowhere; TFDS would leave an empty temporary folder behind each time."""


def stored(*shape: int | None, dtype: type = np.float32) -> tfds.features.Tensor:
    """A feature that is an array, stored as its bytes."""
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")


class ZooBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A published zoo as a TFDS data set, with one TFDS config for each way to split it."""

    VERSION = tfds.core.Version("1.0.0")
    DATA_DIR_FLAG = "--config.data_dir=DIR"
    # The zoo's top folder, its archive, and the official splits file beside them.
    TOP: ClassVar[str]
    ADDRESS: ClassVar[Address]
    SPLITS_FILE: ClassVar[str]
    OTHER_SPLITS_FILES: ClassVar[tuple[str, ...]] = ()  # other names that it goes by
    NEEDS: ClassVar[str]
    # Splits that "auto" stands for: a prepared one of them, or else, without a splits file, the
    # last.
    AUTO: ClassVar[tuple[str, ...]] = ("official", "seeded")

    def __init__(self, *, request: Request | None = None, **kwargs: Any):
        """`kwargs` are TFDS's: `config`, a name in `BUILDER_CONFIGS`, and `data_dir` above all."""
        self.request = request or Request()
        self.skipped, self.notes = Skipped(self.request.skip_bad), Notes()
        super().__init__(**{"file_format": "array_record"} | kwargs)

    @property
    def folder(self) -> pathlib.Path:
        return pathlib.Path(self.data_dir)

    def find_splits_file(self) -> pathlib.Path | None:
        """See the function."""
        return find_splits_file(type(self), self.request)

    def _new_info(self, features: Mapping[str, Any], homepage: str, cite: str):
        return LocalInfo(
            builder=self,
            description=(type(self).__doc__ or "").strip(),
            features=tfds.features.FeaturesDict(features),
            homepage=homepage,
            citation=cite,
            metadata=tfds.core.MetadataDict(),
        )

    def _archive(self, downloads: pathlib.Path) -> pathlib.Path:
        address = self.ADDRESS
        if self.request.sha256:
            address = dataclasses.replace(address, sha256=self.request.sha256)
        if self.request.url not in (None, address.url):
            # A folder for each other address: archives of several zoos have the same name.
            address = dataclasses.replace(address, url=self.request.url)
            downloads /= hashlib.sha256(address.url.encode()).hexdigest()[:12]
        archive = fetch(address, downloads)
        self.info.metadata["made_of"] = {"url": address.url, "sha256": noted_checksum(archive)}
        return archive

    @classmethod
    def find_source(cls, manual_dir: pathlib.Path) -> Any:
        """The zoo in a folder of the user, at its `where`; None if it is not there."""
        return archives.find(manual_dir, cls.TOP, cls.ADDRESS.filename)

    @classmethod
    def opened(cls, archive: pathlib.Path) -> Any:
        """The zoo in its archive."""
        return archives.opened(archive, cls.TOP)

    def _source(self, downloads: pathlib.Path) -> Any:
        """The published files: the user's own, or the downloaded archive."""
        manual_dir = self.request.manual_dir
        if manual_dir is None:
            source = self.opened(self._archive(downloads))
        else:
            source = self.find_source(manual_dir)
        if source is None:
            raise UserError(
                f"{manual_dir}: no {self.name} zoo here; it needs {self.NEEDS}, or leave "
                "manual_dir unset to download them"
            )
        if manual_dir is not None:
            self.info.metadata["made_of"] = {"files": source.listing().digest}
        self.info.metadata["source"] = str(source.where)
        return source

    def official_file(self) -> pathlib.Path:
        """The official split; a `UserError` that says what to do if the user has none."""
        file = self.find_splits_file()
        if file is None:
            raise UserError(
                f"{self.name}: split is {self.builder_config.name!r}, but there is no "
                f"{self.SPLITS_FILE}; put it into manual_dir, give it with --config.splits_file, "
                "or take --config.split=seeded"
            )
        return file

    def official_names(
        self, file: pathlib.Path, target: str, files: archives.Source
    ) -> dict[str, list[tuple[str, Any]]]:
        """(name, target) of each network in an official JSON; all of them are among `files`."""
        parts = splits.read_json(file, target, lambda path: archives.from_top(path, self.TOP))
        fault = f"is named in {file} but missing from {files.where}"
        remedy = "fetch the zoo again, or leave it out with --config.skip_bad=True"
        for name, _ in itertools.chain(*parts.values()):
            if name not in files.names:
                self.skipped.add(BadNetworkError(name, fault, remedy))
        return {
            split: [item for item in items if item[0] in files.names]
            for split, items in parts.items()
        }

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        parts = self._plan(pathlib.Path(dl_manager.download_dir))
        for split in (split for split in SPLITS if not parts[split]):
            lacking = f"no networks for {split!r} in {self.info.metadata['source']}"
            for name, fault in itertools.islice(self.skipped.faults.items(), 1):
                lacking += f" (the first fault: {name} {fault})"
            told = f"{self.name}: {lacking}; the folder is incomplete, fetch the zoo again"
            raise UserError(told)
        return {split: self._generate_examples(parts[split]) for split in SPLITS}

    def _generate_examples(self, items: Iterable[Any]) -> Iterator[tuple[str | int, dict]]:
        for key, item in enumerate(items):
            try:
                yield key, self._example(item)
            except BadNetworkError as error:
                self.skipped.add(error)

    @abc.abstractmethod
    def _plan(self, downloads: pathlib.Path) -> dict[str, list[Any]]:
        """What goes into each split; calls `_source`."""

    @abc.abstractmethod
    def _example(self, item: Any) -> dict[str, Any]:
        """One network's features; a `BadNetworkError` if it cannot be used."""

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        file = self.find_splits_file()
        self.info.metadata["splits_sha256"] = splits.fingerprint(file) if file else None
        self.info.metadata["skipped"] = len(self.skipped.faults)
        if self.skipped.faults:
            self.skipped.write(self.folder / SKIPPED_FILE)


def find_splits_file(cls: type[ZooBuilder], request: Request) -> pathlib.Path | None:
    """The official split, where the user has it; a `UserError` if it is not where they say."""
    folder, file = request.manual_dir, request.splits_file
    if file is not None:
        if not file.is_file():
            raise UserError(f"no splits file at {file}; correct --config.splits_file")
        return file
    if folder is None:
        return None
    # The parent only where manual_dir is the zoo's own top folder, beside which the file lies.
    folders = [folder, folder.parent] if folder.name == cls.TOP else [folder]
    names = (cls.SPLITS_FILE, *cls.OTHER_SPLITS_FILES)
    places = (splits.find_file(place, name) for place in folders for name in names)
    return next(filter(None, places), None)


def damaged(folder: pathlib.Path, error: Exception) -> UserError:
    """What to tell of a prepared zoo whose files cannot be read."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        f"the prepared zoo in {folder} is damaged ({reason}); delete that folder and run again"
    )


def prepare(builder: tfds.core.DatasetBuilder, downloads: pathlib.Path) -> None:
    """Prepares a zoo: all of it, or nothing that later loads.

    No other process may do so meanwhile. The builder has a `folder`, `skipped` and `DATA_DIR_FLAG`
    like a `ZooBuilder`. A `UserError` for anything wrong with the files, the connection or the
    disk.

    Args:
      downloads: where archives are kept.
    """
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        print(f"preparing {builder.name} in {builder.data_dir}")
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS says there that it knows no sizes
            builder.download_and_prepare(download_config=config, download_dir=os.fspath(downloads))
    except AssertionError as error:  # what TFDS raises for a split without examples
        if "No examples" not in str(error):
            raise
        raise UserError(
            f"{builder.name}: no network of a split can be used; the first fault: "
            f"{': '.join(next(iter(builder.skipped.faults.items())))}; fetch the zoo again"
        ) from error
    except RuntimeError as error:  # what array_record's writer raises
        for known in ("No space left on device", "File too large", "Disk quota exceeded"):
            if known in str(error):
                raise unwritable(builder.data_dir, builder.DATA_DIR_FLAG, known) from error
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise unwritable(builder.data_dir, builder.DATA_DIR_FLAG, reason) from error


def unwritable(place: Any, flag: str, reason: str) -> UserError:
    """What to tell where a zoo cannot be prepared for want of room or rights."""
    return UserError(
        f"cannot write the prepared zoo to {place} ({reason}); free some space, or choose another "
        f"folder with {flag}"
    )
