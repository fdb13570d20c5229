"""The published zoos, prepared on first use and loaded from there ever after."""

import pathlib

import numpy as np
from google.protobuf.json_format import ParseError

from probegen_jax import user_cache
from probegen_jax.errors import UserError
from probegen_jax.zoo import cache, flat_weights, splits
from probegen_jax.zoo.prepared import builders
from probegen_jax.zoo.prepared.reading import read
from probegen_jax.zoo.published.cifar10_gs import Cifar10Gs
from probegen_jax.zoo.published.cifar10_wild_park import Cifar10WildPark
from probegen_jax.zoo.published.inr import NUM_CLASSES, SPEC, FmnistInr, InrZooBuilder, MnistInr
from probegen_jax.zoo.zoo import Zoo

BUILDERS: dict[str, type[builders.ZooBuilder]] = {
    "mnist_inr": MnistInr,
    "fmnist_inr": FmnistInr,
    "cifar10_gs": Cifar10Gs,
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
    if issubclass(BUILDERS[dataset], InrZooBuilder):
        weights = flat_weights.unflatten(np.asarray(columns["weights"]), SPEC.abstract())
        targets = np.asarray(columns["label"])
        return Zoo(dataset, SPEC, weights, targets, rows, "classification", NUM_CLASSES)
    from probegen_jax.zoo.prepared import cnn_zoos

    return getattr(cnn_zoos, dataset)(columns, rows, fidelity)


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
    builder = _choose(cls, folder, split, request)
    builders.prepare(builder)
    _check_still_wanted(builder)
    skipped = builder.info.metadata["skipped"]
    if builder.builder_config.name == "seeded":
        print(
            f"{builder.name}: no official split ({builder.SPLITS_FILE}) in use; the split is "
            f"seeded: {builder.builder_config.description} {splits.SEED}"
        )
    if skipped:
        listed = builder.folder / builders.SKIPPED_FILE
        print(f"{builder.name}: {skipped} bad networks were left out, listed in {listed}")
    return builder


def _choose(
    cls: type[builders.ZooBuilder], folder: pathlib.Path, split: str, request: builders.Request
) -> builders.ZooBuilder:
    names = list(cls.builder_configs)
    if split not in ("auto", *names):
        raise UserError(f"split is {split!r}; choose auto, {', '.join(names)}")

    def builder(name: str) -> builders.ZooBuilder:
        try:
            return cls(config=name, data_dir=folder, request=request)
        except (OSError, ValueError, KeyError, ParseError) as error:  # from what is prepared
            path = folder / cls.name / name / str(cls.VERSION)
            if not path.exists():
                raise
            raise builders.damaged(path, error) from error

    if split != "auto":
        return builder(split)
    official = builder("official")
    known = official.data_path.exists() or official.find_splits_file()
    return official if known else builder("seeded")


def _check_still_wanted(builder: builders.ZooBuilder) -> None:
    """Refuses a prepared zoo that was made of other files than those now given."""
    made, request = builder.info.metadata, builder.request
    if made is None or not {"source", "splits_sha256", "skipped"} <= made.keys():
        raise builders.damaged(builder.folder, ValueError("its metadata.json is incomplete"))
    remedy = f"delete {builder.folder} to prepare it again, or choose another data_dir"
    if request.manual_dir is not None:
        found = builder.find_source(request.manual_dir)
        if found is not None and str(found.where) != made["source"]:
            raise UserError(
                f"{builder.name} was prepared from {made['source']}, but manual_dir has it in "
                f"{found.where}; leave manual_dir unset to use what is prepared, or {remedy}"
            )
    file = builder.find_splits_file()
    official = builder.builder_config.name != "seeded"
    if official and file is not None and splits.fingerprint(file) != made["splits_sha256"]:
        raise UserError(f"{builder.name} was prepared with another split than {file}; {remedy}")
    if made["skipped"] and not request.skip_bad:
        raise UserError(
            f"{builder.name} was prepared without {made['skipped']} bad networks, listed in "
            f"{builder.folder / builders.SKIPPED_FILE}; accept that with --config.skip_bad=True, "
            f"or {remedy}"
        )
