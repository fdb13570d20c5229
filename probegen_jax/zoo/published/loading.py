"""The published zoos, prepared on first use and loaded from there ever after."""

import pathlib
import shutil

import numpy as np
from google.protobuf.json_format import ParseError

from probegen_jax import locks, user_cache
from probegen_jax.errors import UserError
from probegen_jax.files import UNREADABLE
from probegen_jax.zoo import cache, flat_weights, splits
from probegen_jax.zoo.prepared import builders
from probegen_jax.zoo.prepared.reading import read
from probegen_jax.zoo.published import choice
from probegen_jax.zoo.published.cifar10_wild_park import Cifar10WildPark
from probegen_jax.zoo.published.inr import NUM_CLASSES, FmnistInr, InrZooBuilder, MnistInr
from probegen_jax.zoo.published.nfn import Cifar10Inr, NfnFmnistInr, NfnMnistInr
from probegen_jax.zoo.published.small_cnn_zoo import PARTS, SmallCnnZoo
from probegen_jax.zoo.zoo import Zoo

BUILDERS: dict[str, type[builders.ZooBuilder]] = {
    "mnist_inr": MnistInr,
    "fmnist_inr": FmnistInr,
    "cifar10_inr": Cifar10Inr,
    "nfn_mnist_inr": NfnMnistInr,
    "nfn_fmnist_inr": NfnFmnistInr,
    **{part.name: part for part in PARTS},
    "cifar10_wild_park": Cifar10WildPark,
}


def load(
    dataset: str,
    data_dir: pathlib.Path | None = None,
    *,
    split: str = "auto",
    fidelity: str = "faithful",
    request: builders.Request | None = None,
) -> Zoo:
    """A published zoo, with weights on the host.

    Args:
      dataset: its name, a key of `BUILDERS`.
      split: "official", "seeded", ... or "auto": the official one where there is a file for it.
      fidelity: of CNN zoos: "faithful" runs networks as they were trained, "official" as ProbeGen's
        published code does.
      request: where the files are if the zoo is not prepared yet.
    """
    if fidelity not in ("faithful", "official"):
        raise UserError(f"fidelity is {fidelity!r}; choose faithful or official")
    columns, rows = read(prepared(dataset, data_dir, split=split, request=request))
    cls = BUILDERS[dataset]
    if issubclass(cls, InrZooBuilder):
        weights = flat_weights.unflatten(np.asarray(columns["weights"]), cls.SPEC.abstract())
        targets = np.asarray(columns["label"])
        return Zoo(dataset, cls.SPEC, weights, targets, rows, "classification", NUM_CLASSES)
    from probegen_jax.zoo.prepared import cnn_zoos

    if issubclass(cls, SmallCnnZoo):
        return cnn_zoos.small_cnn_zoo(dataset, cls.SIDE, columns, rows, fidelity)
    return cnn_zoos.cifar10_wild_park(columns, rows, fidelity)


def prepared(
    dataset: str,
    data_dir: pathlib.Path | None = None,
    *,
    split: str = "auto",
    request: builders.Request | None = None,
) -> builders.ZooBuilder:
    """The builder of a published zoo, prepared, as for `load`; tells what is worth knowing."""
    request = request or builders.Request()
    folder = data_dir or user_cache.default_dir()
    cache.make_folder(folder)
    cls = BUILDERS[dataset]
    asked = choice.Asked(cls, request)
    builder = _opened(cls, folder, split, asked, request)
    if builder is None:
        lock = folder / cls.name / ".lock"
        try:
            with locks.lock(lock, f"prepares {cls.name} in {folder}", keep=True):
                # Another process may have done it meanwhile.
                builder = _opened(cls, folder, split, asked, request)
                builder = builder or _prepare(cls, folder, split, asked, request)
        except OSError as error:
            reason = error.strerror or str(error)
            raise builders.unwritable(lock.parent, cls.DATA_DIR_FLAG, reason) from error
    made = builder.info.metadata
    skipped, listed = made["skipped"], builder.folder / builders.SKIPPED_FILE
    if skipped and not request.skip_bad:
        raise UserError(
            f"{builder.name} was prepared without {skipped} bad networks, listed in {listed}; "
            f"accept that with --config.skip_bad=True, or delete {builder.folder} to prepare it "
            "again, or choose another data_dir"
        )
    if builder.builder_config.name == "seeded":
        print(
            f"{builder.name}: no official split ({builder.SPLITS_FILE}) in use; the split is "
            f"seeded: {builder.builder_config.description} {splits.SEED}"
        )
    if skipped:
        print(f"{builder.name}: {skipped} bad networks were left out, listed in {listed}")
    return builder


def _opened(
    cls: type[builders.ZooBuilder],
    folder: pathlib.Path,
    split: str,
    asked: choice.Asked,
    request: builders.Request,
) -> builders.ZooBuilder | None:
    """The builder of the zoo that is asked for, if it is prepared."""
    if split not in ("auto", *cls.builder_configs):
        raise UserError(f"split is {split!r}; choose auto, {', '.join(cls.builder_configs)}")
    for name in cls.AUTO if split == "auto" else (split,):
        zoo = asked.choose(list(choice.prepared(cls, folder, name)), name)
        if zoo is not None:
            try:
                return cls(config=name, data_dir=zoo.data_dir, request=request)
            except (*UNREADABLE, ParseError) as error:
                raise builders.damaged(zoo.folder, error) from error
        if asked.has_official_split:
            break
    return None


def _prepare(
    cls: type[builders.ZooBuilder],
    folder: pathlib.Path,
    split: str,
    asked: choice.Asked,
    request: builders.Request,
) -> builders.ZooBuilder:
    """Prepares the zoo; the caller has the lock of all zoos of that name in the folder."""
    for pattern in (".", f"{choice.BESIDE}/*"):  # of preparations that were killed
        for abandoned in folder.glob(f"{pattern}/{cls.name}/*/incomplete.*"):
            shutil.rmtree(abandoned)
    if split == "auto":
        split = "official" if asked.has_official_split else cls.AUTO[-1]
    place = asked.place(folder, list(choice.prepared(cls, folder, split)))
    builder = cls(config=split, data_dir=place, request=request)
    builders.prepare(builder, folder / "downloads")
    for note in builder.notes.lines:
        print(f"{builder.name}: {note}")
    return builder
