"""The Small CNN Zoo of Unterthiner et al. (2020): a part for each data set, all read alike."""

import pathlib
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.zoo import splits
from probegen_jax.zoo.files import small_cnn_files as files
from probegen_jax.zoo.files.download import Address
from probegen_jax.zoo.prepared import builders


class SmallCnnZoo(builders.ZooBuilder, skip_registration=True):
    """A part of the zoo: the last networks of its runs, with their test accuracy."""

    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(
            name="official", description="NFN's, with the stray first line of its CSV as a row"
        ),
        tfds.core.BuilderConfig(name="faithful", description="NFN's, without the stray line"),
        tfds.core.BuilderConfig(
            name="seeded", description="half for test, a tenth for validation, drawn by our seed"
        ),
    ]
    # The sides of the images that networks were trained on, which were never resized.
    SIDE: ClassVar[int]

    def __init_subclass__(
        cls, part: str, side: int, splits_files: tuple[str, ...], **kwargs: Any
    ) -> None:
        """`part` is TFDS's name of the data set, which the archive has, too."""
        super().__init_subclass__(**kwargs)
        cls.TOP, cls.SIDE = part, side
        cls.SPLITS_FILE, *others = splits_files
        cls.OTHER_SPLITS_FILES = tuple(others)
        name = f"{part}.tar.xz"
        cls.ADDRESS = Address(
            f"https://storage.googleapis.com/gresearch/smallcnnzoo-dataset/{name}", name
        )
        cls.NEEDS = f"weights.npy, metrics.csv.gz and layout.csv, there or in {part}/, or {name}"

    def _info(self) -> tfds.core.DatasetInfo:
        return self._new_info(
            {
                "weights": builders.stored(files.NUM_WEIGHTS),
                "score": np.float32,
                "activation": tfds.features.Text(),
                "row": np.int32,
                "path": tfds.features.Text(),
            },
            "https://github.com/google-research/google-research/tree/master/dnn_predict_accuracy",
            """@misc{unterthiner2020predicting,
  title={Predicting Neural Network Accuracy from Weights},
  author={Unterthiner, Thomas and Keysers, Daniel and Gelly, Sylvain and Bousquet, Olivier and
          Tolstikhin, Ilya}, year={2020}, eprint={2002.11448}, archivePrefix={arXiv}}""",
        )

    @classmethod
    def find_source(cls, manual_dir: pathlib.Path) -> files.Files | None:
        for folder in (manual_dir, manual_dir / cls.TOP):
            if (folder / files.WEIGHTS).is_file():
                return files.FolderFiles(folder.resolve())
        archive = manual_dir / cls.ADDRESS.filename
        return files.TarFiles(archive.resolve()) if archive.is_file() else None

    @classmethod
    def opened(cls, archive: pathlib.Path) -> files.Files:
        return files.TarFiles(archive)

    def _plan(self, downloads: pathlib.Path) -> dict[str, list[Any]]:
        source = self._source(downloads)
        self._where, where = source.where, f"{source.where}/{files.METRICS}"
        self._runs = files.parse_metrics(source.small(files.METRICS), where)
        self._check_part(where)
        layout = f"{source.where}/{files.LAYOUT}"
        self._columns = files.parse_layout(source.small(files.LAYOUT), layout)
        parts = self._split(where)
        wanted = np.concatenate([np.asarray(rows, np.int64) for rows in parts.values()])
        self._rows = source.rows(wanted, len(self._runs), int(self._columns.max()) + 1)
        return parts

    def _check_part(self, where: str) -> None:
        """All parts have files of the same names, so another one's are easily given."""
        for part in {run.dataset for run in self._runs} & {other.TOP for other in PARTS}:
            if part == self.TOP:
                continue
            told = (
                f"config.dataset says {part}, not {self.TOP}; use configs/small_cnn_zoo.py:{part}"
            )
            if self.TOP != "cifar10":
                raise UserError(f"{where}: {told}")
            self.notes.add(where, told)  # earlier versions read any part as cifar10

    def _split(self, where: str) -> dict[str, list[int]]:
        # A run's last checkpoint; the task takes no others.
        final = {row for row, run in enumerate(self._runs) if run.step == run.final}
        if not final:
            raise UserError(
                f"{where}: no row has step {files.PUBLISHED_EPOCHS}, a run's last; fetch the zoo "
                "again"
            )
        if self.builder_config.name == "seeded":
            return splits.seeded(sorted(final), 0.1, 0.5, where=where)
        faithful = self.builder_config.name == "faithful"
        order = splits.read_nfn_order(self.official_file(), faithful, len(self._runs))
        return splits.nfn([row for row in order if row in final])

    def _example(self, item: int) -> dict[str, Any]:
        run, weights = self._runs[item], np.asarray(self._rows[item])[self._columns]
        faults = {
            "holds NaN or infinite weights": not np.isfinite(weights).all(),
            f"its test accuracy is {run.score}, outside 0 to 1": not 0 <= run.score <= 1,
            f"its activation {run.activation!r} is unknown": run.activation
            not in files.ACTIVATIONS,
        }
        for fault in filter(faults.get, faults):
            remedy = "fetch the zoo again, or leave such networks out with --config.skip_bad=True"
            raise BadNetworkError(f"{self._where}/{files.WEIGHTS}: row {item}", fault, remedy)
        told = {"score": run.score, "activation": run.activation, "path": run.path}
        return {"weights": weights, "row": item, **told}


class Cifar10Gs(SmallCnnZoo, part="cifar10", side=32, splits_files=("nfn_cifar10_split.csv",)):
    """CIFAR10-GS: the final networks of 30,000 runs, with their test accuracy."""


class SvhnGs(
    SmallCnnZoo,
    part="svhn_cropped",
    side=32,
    splits_files=("nfn_svhn_split.csv", "svhn_split.csv"),
):
    """SVHN-GS: the final networks of 29,988 runs, with their test accuracy."""


class MnistGs(
    SmallCnnZoo, part="mnist", side=28, splits_files=("nfn_mnist_split.csv", "mnist_split.csv")
):
    """MNIST in the Small CNN Zoo: the final networks of 29,997 runs, with their test accuracy."""


class FmnistGs(
    SmallCnnZoo,
    part="fashion_mnist",
    side=28,
    splits_files=("nfn_fashion_mnist_split.csv", "fashion_mnist_split.csv"),
):
    """Fashion-MNIST in the Small CNN Zoo: the final networks of 30,000 runs, with test accuracy."""


PARTS = (Cifar10Gs, SvhnGs, MnistGs, FmnistGs)
