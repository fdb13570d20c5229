"""A zoo of the user's own: files with a CSV of targets, or stacked arrays."""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from probegen_jax import trees, user_cache
from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.files import write_text
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.options import ReadOptions
from probegen_jax.zoo import cache, flat_weights, splits
from probegen_jax.zoo.files import archives
from probegen_jax.zoo.own import families, reading
from probegen_jax.zoo.own.targets import Task, as_float32, read_csv
from probegen_jax.zoo.zoo import SPLITS, Stored, Zoo


def from_arrays(
    name: str,
    spec: NetworkSpec,
    weights: Any,
    targets: Shaped[np.ndarray, "N *classes"],
    *,
    task: Task,
    num_outputs: int | None = None,
    splits_of: Mapping[str, Any] | None = None,
    val_share: float = 0.1,
    test_share: float = 0.2,
    class_names: Sequence[str] | None = None,
) -> Zoo:
    """A zoo from stacked arrays.

    Args:
      weights: the pytree of `spec.abstract()` with a leading network axis on each leaf; kernels are
        (N, in, out). Or one array (N, V) of such networks flattened by `flat_weights.flatten`.
      targets: of each network: class or value; or, where it may have several classes, (N, C) of 0
        and 1.
      num_outputs: number of classes, which are then counted from 0; if None, classes are the
        targets that occur.
    """
    number = len(targets)
    if not isinstance(weights, Stored):
        weights = _checked_weights(name, spec, weights, number)
    if class_names is not None:
        num_outputs = num_outputs or len(class_names)
    elif task == "classification" and num_outputs is None:
        targets, class_names = _by_occurrence(np.asarray(targets))
    targets, num_outputs = _checked_targets(name, np.asarray(targets), task, num_outputs)
    if splits_of is None:
        if not (min(val_share, test_share) >= 0 and val_share + test_share < 1):  # also of NaN
            raise UserError(
                f"zoo {name}: val_share is {val_share} and test_share {test_share}; give shares of "
                "at least 0 that leave some for training"
            )
        splits_of = splits.seeded(list(range(number)), val_share, test_share, where=f"zoo {name}")
        print(f"{name}: split into train, val and test by our own seed {splits.SEED}")
    for split, rows in splits_of.items():
        if len(rows) and not (np.min(rows) >= 0 and np.max(rows) < number):
            raise UserError(f"zoo {name}: split {split!r} names a row outside 0 to {number - 1}")
    parts = {split: np.asarray(splits_of[split], np.int32) for split in SPLITS}
    names = None if class_names is None else tuple(class_names)
    return Zoo(name, spec, weights, targets, parts, task, num_outputs, class_names=names)


def _checked_weights(name: str, spec: NetworkSpec, weights: Any, number: int) -> Any:
    """Stacked weights, as the spec and the number of targets say; else a `UserError`."""
    shapes = spec.abstract()  # without shapes, any weights are taken
    if isinstance(weights, np.ndarray) and shapes is not None:
        weights = flat_weights.unflatten(weights, shapes)
    if shapes is not None and jax.tree.structure(weights) != jax.tree.structure(shapes):
        raise UserError(
            f"zoo {name}: weights are {jax.tree.structure(weights)}, the spec says "
            f"{jax.tree.structure(shapes)}"
        )
    shape_of = {} if shapes is None else trees.named(shapes)
    for array, leaf in trees.named(weights).items():
        where = f"zoo {name}: {array}"
        if shapes is not None:
            shape, dtype = (number, *shape_of[array].shape), shape_of[array].dtype
            if leaf.shape != shape or leaf.dtype != dtype:
                is_so = f"is {leaf.dtype} {leaf.shape}, expected {dtype} {shape}"
                raise UserError(f"{where} {is_so}: one row per target")
        if not np.isfinite(leaf).all():
            raise UserError(f"{where} holds NaN or infinite weights; leave those networks out")
    if spec.count(weights) != number:
        raise UserError(
            f"zoo {name}: weights are of {spec.count(weights)} networks, targets of {number}; give "
            "one target for each network"
        )
    return weights


def from_folder(
    folder: pathlib.Path,
    targets_csv: pathlib.Path,
    spec: NetworkSpec | None,
    options: ReadOptions,
    *,
    given: Mapping[str, Any] | None = None,
    task: Task,
    num_outputs: int | None = None,
    val_share: float = 0.1,
    test_share: float = 0.2,
    skip_bad: bool = False,
    data_dir: pathlib.Path | None = None,
) -> Zoo:
    """A zoo from a folder of networks, in files of torch or safetensors, or a folder for each.

    Small networks are read once, then kept as arrays; large ones stay in their files, and are read
    whenever they are needed.

    Args:
      targets_csv: with columns `path` (from `folder`) and `target`, maybe `split`.
      spec: of the networks; None if it is to be found in the files of the first that can be read.
      options: how their arrays are named.
      given: where `spec` is None, what the files may not say of it, see `own.families.find`.
      num_outputs: number of classes, which are then counted from 0; if None, classes are the
        targets that occur, whatever they are called.
      skip_bad: leave bad networks out, and list them, instead of stopping.
    """
    listing = read_csv(targets_csv, task, num_outputs)
    stats, beside = {}, {}
    for path in listing.paths:
        with contextlib.suppress(OSError, BadNetworkError):  # told below, network by network
            file = families.weights_file(folder / path)
            stats[path] = file.stat()
            if spec is None or spec.config_beside:
                beside[f"{path}: its JSON"] = families.json_beside(file).stat()
    _refuse_one_file_twice(targets_csv, stats)
    if spec is None:
        spec = _found(folder, listing.paths, options, given or {}, skip_bad)
    stats |= beside
    key = {
        "files": archives.listing(stats.items()).digest,
        "listed": hashlib.sha256(repr((str(folder.resolve()), listing.paths)).encode()).hexdigest(),
        "spec": repr(spec),
        "options": repr(options),
        "skip_bad": skip_bad,
        "large": reading.is_large(spec),
        "code": cache.source_hash(__name__, ["probegen_jax.zoo", "probegen_jax.networks"]),
    }

    def build() -> cache.Arrays:
        return reading.read_all(folder, listing.paths, spec, options, skip_bad)

    data_dir = data_dir or user_cache.default_dir()
    arrays = cache.cached_arrays(data_dir, f"own-{folder.name}", key, build)
    kept = arrays["kept"]
    for note in arrays["notes"]:
        print(f"{folder.name}: {note}")
    if number := len(arrays["faults"]):
        file = data_dir / f"own-{folder.name}.skipped.tsv"
        write_text(file, "".join(f"{fault}\n" for fault in arrays["faults"]))
        print(f"{folder.name}: {number} bad networks were left out, listed in {file}")
    weights: Any = arrays["vectors"]
    if reading.is_large(spec):
        paths = [listing.paths[row] for row in kept]
        weights = reading.stored(folder, paths, spec, options, str(arrays["digest"]))
    elif spec.abstract() is None:
        spec, weights = spec.stack(reading.unlike(arrays))
    splits_of = None
    if listing.splits is not None:
        names = np.asarray(listing.splits)[kept]
        splits_of = {split: np.flatnonzero(names == split) for split in SPLITS}
    return from_arrays(
        folder.name,
        spec,
        weights,
        listing.targets[kept],
        task=task,
        num_outputs=num_outputs,
        splits_of=splits_of,
        val_share=val_share,
        test_share=test_share,
        class_names=listing.class_names,
    )


def _found(
    folder: pathlib.Path,
    paths: list[str],
    options: ReadOptions,
    given: Mapping[str, Any],
    skip_bad: bool,
) -> NetworkSpec:
    """The spec of the first network; if bad ones are left out, of the first that has one."""
    for path in paths:
        try:
            return families.find(families.weights_file(folder / path), options, given)
        except UserError:
            if not skip_bad or path == paths[-1]:
                raise
    raise AssertionError  # a listing is never empty


def _by_occurrence(targets: np.ndarray) -> tuple[np.ndarray, list[str] | None]:
    """Targets as classes from 0, and their names; None where they are counted from 0 already."""
    integer = np.issubdtype(targets.dtype, np.integer)
    if targets.ndim != 1 or not (integer or targets.dtype.kind == "U"):
        return targets, None  # told by `_checked_targets`
    labels, classes = np.unique(targets, return_inverse=True)
    if integer and np.array_equal(labels, np.arange(len(labels))):
        return targets, None
    return classes.astype(np.int32), [str(label) for label in labels]


def _refuse_one_file_twice(listed: pathlib.Path, stats: Mapping[str, os.stat_result]) -> None:
    """Raises a `UserError` if a file has two of the names: it might be in two splits."""
    names: dict[tuple[int, int], str] = {}
    for name, stat in stats.items():
        other = names.setdefault((stat.st_dev, stat.st_ino), name)
        if other != name:
            raise UserError(f"{listed}: {other} and {name} are the same file; list it once")


def _checked_targets(
    name: str, targets: np.ndarray, task: Task, num_outputs: int | None
) -> tuple[np.ndarray, int]:
    if task != "multilabel" and targets.ndim != 1:
        raise UserError(
            f"zoo {name}: targets are of shape {targets.shape}; give one for each network, or "
            'task="multilabel" for networks with several classes'
        )
    if task == "regression":
        for row in np.flatnonzero(~np.isfinite(targets)):
            raise UserError(f"zoo {name}: target {row} is not finite")
        return as_float32(targets, f"zoo {name}"), 1
    if task == "multilabel":
        if targets.ndim != 2 or not targets.shape[1] or not np.isin(targets, (0, 1)).all():
            raise UserError(
                f"zoo {name}: targets are {targets.dtype} {targets.shape}; give a row of 0 and 1 "
                "for each network, with a column for each class"
            )
        if num_outputs not in (None, targets.shape[1]):
            raise UserError(
                f"zoo {name}: targets have {targets.shape[1]} columns, but there are {num_outputs} "
                "classes"
            )
        return targets.astype(np.int8), targets.shape[1]
    if not np.issubdtype(targets.dtype, np.integer):
        raise UserError(f"zoo {name}: targets are {targets.dtype}; classes are whole numbers")
    classes = num_outputs or int(targets.max(initial=0)) + 1
    for row in np.flatnonzero((targets < 0) | (targets >= classes)):
        what = f"target {row} is class {targets[row]}, outside 0 to {classes - 1}"
        raise UserError(f"zoo {name}: {what}")
    if classes < 2:
        raise UserError(f"zoo {name}: there is one class only; nothing to tell apart")
    return targets.astype(np.int32), classes
