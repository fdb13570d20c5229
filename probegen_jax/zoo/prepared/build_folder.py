"""Zoos that `build_zoo` made, as TFDS data sets of their own folder."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError
from tensorflow_datasets.proto import tf_example_pb2

from probegen_jax.errors import UserError
from probegen_jax.files import UNREADABLE, read_json
from probegen_jax.zoo.bad_networks import Skipped
from probegen_jax.zoo.prepared import builders, schema
from probegen_jax.zoo.zoo import SPLITS

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a built zoo is made of.

    Attributes:
      family: "inr" or "cnn": which configs can train on it.
      splits: of each split, a call that gives its networks in order.
    """

    family: str
    features: Mapping[str, Any]
    splits: Mapping[str, Callable[[], Iterator[Example]]]
    metadata: Mapping[str, Any]
    description: str


class _SameBytes(tfds.core.ExampleWriter):
    """Writes features in one order; protobuf's own differs from process to process."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        parse = tf_example_pb2.Example.FromString
        return super().write(
            path,
            ((key, parse(each).SerializeToString(deterministic=True)) for key, each in examples),
        )


class BuiltZoo(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A zoo of networks that were trained here."""

    VERSION = tfds.core.Version("1.0.0")
    DATA_DIR_FLAG = "--out=DIR"

    def __init__(self, contents: Contents, **kwargs: Any):
        self.contents = contents
        self.skipped = Skipped(False)
        super().__init__(**{"file_format": "array_record"} | kwargs)

    @property
    def folder(self) -> pathlib.Path:
        return pathlib.Path(self.data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        metadata = {"family": self.contents.family, **self.contents.metadata}
        return builders.LocalInfo(
            builder=self,
            description=self.contents.description,
            features=tfds.features.FeaturesDict(self.contents.features),
            metadata=tfds.core.MetadataDict(metadata),
            disable_shuffling=True,  # networks stay in the order of the build
        )

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return _SameBytes(file_format=self.info.file_format)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, Example]]:
        yield from enumerate(self.contents.splits[split]())


def is_written(out: pathlib.Path) -> bool:
    """Whether the folder of a build holds its finished data set."""
    return (_place(out) / "dataset_info.json").exists()


def write(out: pathlib.Path, contents: Contents) -> None:
    """Writes the data set into the folder of a build: all of it, or nothing that later loads.

    Only the process that holds the folder's lock may do so.
    """
    builder = BuiltZoo(contents, data_dir=out)
    clean(out)
    # TFDS makes a folder for downloads and leaves it empty.
    builders.prepare(builder, _place(out).with_name("incomplete.downloads"))
    clean(out)


def clean(out: pathlib.Path) -> None:
    """Removes what a killed process left of the data set; only for who holds the folder's lock."""
    for leftover in _place(out).parent.glob("incomplete.*"):
        shutil.rmtree(leftover, ignore_errors=True)


def opened(out: pathlib.Path) -> tfds.core.DatasetBuilder:
    """The data set in the folder of a build; a `UserError` if there is none, or a damaged one."""
    if not is_written(out):
        if (out / "plan.json").exists():
            raise UserError(
                f"the zoo in {out} is not finished; run the command that builds it again, it goes "
                "on where it stopped"
            )
        command = f"python -m probegen_jax.build_zoo … --out={out}"
        raise UserError(f"no zoo in {out}; build one with {command}")
    place = _place(out)
    metadata = read_json(place / "metadata.json")
    try:
        features = schema.of_built(place, metadata)
        # Of the files' own words the builder takes over the sizes of splits and no more.
        return BuiltZoo(Contents(metadata["family"], features, {}, metadata, ""), data_dir=out)
    except (*UNREADABLE, ParseError) as error:
        raise builders.damaged(place, error) from error


def _place(out: pathlib.Path) -> pathlib.Path:
    return out / "built_zoo" / str(BuiltZoo.VERSION)
