"""CIFAR10 Wild Park: CNNs of mixed architectures (Kofinas et al., 2024), many per training run."""

import pathlib
import re
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks.cnn import layer_table
from probegen_jax.zoo import splits
from probegen_jax.zoo.files import torch_files
from probegen_jax.zoo.files.download import Address
from probegen_jax.zoo.files.state_dicts import Want
from probegen_jax.zoo.prepared import builders

_CHECKPOINT = re.compile(r"cifar10_zooV2/([^/]+)/checkpoint_\d+/checkpoint\.pt")


def run_of(name: str) -> str:
    """The training run that a checkpoint's path belongs to."""
    return name.rsplit("/", 3)[1]


class Cifar10WildPark(builders.ZooBuilder):
    """CIFAR10 Wild Park: checkpoints of CNNs of mixed architectures, with their test accuracy."""

    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="official", description="as the official JSON says"),
        tfds.core.BuilderConfig(
            name="seeded", description="whole runs drawn for validation and test by our seed"
        ),
    ]
    TOP = "cifar10_zooV2"
    SPLITS_FILE = "cnn_park_splits.json"
    ADDRESS = Address(
        "https://zenodo.org/records/12797219/files/cnn_wild_park.zip?download=1",
        "cnn_wild_park.zip",
    )
    NEEDS = "cifar10_zooV2/<run>/checkpoint_<number>/checkpoint.pt, or cnn_wild_park.zip"

    def _info(self) -> tfds.core.DatasetInfo:
        return self._new_info(
            {
                "layers": builders.stored(None, len(layer_table.COLUMNS), dtype=np.int32),
                "weights": builders.stored(None),
                "num_classes": np.int32,
                "score": np.float32,
                "iteration": np.int32,
                "run": tfds.features.Text(),
                "path": tfds.features.Text(),
            },
            "https://zenodo.org/records/12797219",
            """@inproceedings{kofinas2024graph,
  title={Graph Neural Networks for Learning Equivariant Representations of Neural Networks},
  author={Kofinas, Miltiadis and Knyazev, Boris and Zhang, Yan and Chen, Yunlu and Burghouts,
          Gertjan J. and Gavves, Efstratios and Snoek, Cees G. M. and Zhang, David W.},
  booktitle={International Conference on Learning Representations}, year={2024}}""",
        )

    def _plan(self, downloads: pathlib.Path) -> dict[str, list[Any]]:
        self._files = self._source(downloads)
        if self.builder_config.name == "official":
            file = self.official_file()
            parts = self.official_names(file, "score", self._files)
            names = {split: [name for name, _ in items] for split, items in parts.items()}
            splits.check_runs(file, names, run_of)
            return parts
        runs: dict[str, list[tuple[str, None]]] = {}
        for name in sorted(filter(_CHECKPOINT.fullmatch, self._files.names)):
            runs.setdefault(run_of(name), []).append((name, None))
        if not runs:
            raise UserError(f"{self._files.where}: no checkpoints found; expected {self.NEEDS}")
        shares = (splits.PARK_VAL_SHARE, splits.PARK_TEST_SHARE)
        parts = splits.seeded(list(runs), *shares, where=self._files.where)
        return {
            split: [item for run in part for item in runs[run]] for split, part in parts.items()
        }

    def _example(self, item: tuple[str, Any]) -> dict[str, Any]:
        name, score = item
        where = f"{self._files.where}/{name}"
        want = Want(lambda config: layer_table.file_shapes(config, where), notes=self.notes)
        file = torch_files.load_cnn(self._files.read(name), where, want)
        score = file.score if score is None else score
        if not isinstance(score, int | float) or not 0 <= score <= 1:
            raise BadNetworkError(where, f"its test accuracy is {score!r}, outside 0 to 1")
        network = layer_table.from_torch(file.state, file.config, where)
        return {
            "layers": network.layers,
            "weights": network.weights,
            "num_classes": network.num_classes,
            "score": float(score),
            "iteration": -1 if file.iteration is None else file.iteration,
            "run": run_of(name),
            "path": name,
        }
