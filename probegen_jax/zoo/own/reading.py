"""All networks of a folder: read once into arrays or, if large, whenever they are needed."""

import concurrent.futures
import hashlib
import json
import math
import pathlib
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.files import cell
from probegen_jax.networks import function, registry
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.options import ReadOptions
from probegen_jax.zoo import bad_networks, cache, flat_weights
from probegen_jax.zoo.files import inr_files
from probegen_jax.zoo.files.arrays import Notes
from probegen_jax.zoo.own import families, networks
from probegen_jax.zoo.zoo import Stored

# Weights of a network that is read from its file each time, instead of from a copy of them all.
_LARGE = 2**18
_AT_ONCE = 4  # of these, how many files are read
_ALIGNMENT = 64  # bytes


def is_large(spec: NetworkSpec) -> bool:
    """Whether networks are read from their files whenever they are needed."""
    return spec.num_weights is not None and spec.num_weights > _LARGE


def read_all(
    folder: pathlib.Path, paths: list[str], spec: NetworkSpec, options: ReadOptions, skip_bad: bool
) -> cache.Arrays:
    """Reads every network once.

    Returns:
      The rows of `paths` that are `kept`, `faults` of the others, `notes`; and of those kept their
      weights as `vectors` or, if they are large, only a `digest` of them; or what `unlike` reads.
    """
    alike = spec.abstract() is not None
    if not alike and not spec.config_beside:
        raise UserError(
            f"networks like {type(spec).__name__} cannot be read from files; define their abstract "
            "and read, see probegen_jax/networks/contract.py"
        )
    skipped, notes, kept = bad_networks.Skipped(skip_bad), Notes(), []
    size = 0 if is_large(spec) or not alike else flat_weights.size(spec.abstract())
    vectors, digest = np.empty((len(paths), size), np.float32), hashlib.sha256()
    several: dict[NetworkSpec, int] = {}  # of networks with specs of their own
    ragged: list[tuple[int, np.ndarray]] = []
    for index, path in enumerate(tqdm(paths, desc="reading networks", unit="net", disable=None)):
        try:
            network = _read(folder / path, spec, options, notes)
            if not alike:
                _refuse_other_answers(network[0], next(iter(several), network[0]), folder / path)
        except BadNetworkError as error:
            skipped.add(error)
            continue
        if not kept and type(spec) not in registry.FAMILIES.values():
            function.try_out(spec, network, f"{folder / path}, run by the network of your own")
        if not alike:
            place = several.setdefault(network[0], len(several))
            ragged.append((place, flat_weights.flatten(network[1])))
        elif is_large(spec):
            for leaf in jax.tree.leaves(network):
                digest.update(np.ascontiguousarray(leaf))
        else:
            vectors[len(kept)] = flat_weights.flatten(network)
        kept.append(index)
    if not kept:
        first = ": ".join(next(iter(skipped.faults.items())))
        raise UserError(
            f"{folder}: none of {len(paths):,} networks can be used; the first, {first}"
        )
    faults = [f"{cell(name)}\t{cell(fault)}" for name, fault in skipped.faults.items()]
    found = {"vectors": vectors[: len(kept)]}
    if not alike:
        places, of_each = zip(*ragged, strict=True)
        texts = [json.dumps(registry.to_json(each)) for each in several]
        found = {
            "vectors": np.concatenate(of_each),
            "specs": np.asarray(texts, np.str_),
            "spec_of": np.asarray(places, np.int32),
        }
    return {
        **found,
        "digest": np.asarray(digest.hexdigest()),
        "kept": np.asarray(kept, np.int64),
        "faults": np.asarray(faults, np.str_),
        "notes": np.asarray(notes.lines, np.str_),
    }


def unlike(arrays: cache.Arrays) -> list[tuple[NetworkSpec, Any]]:
    """Networks with specs of their own, which `read_all` has read."""
    specs = [registry.from_json(json.loads(text)) for text in arrays["specs"].tolist()]
    shapes, places = [spec.abstract() for spec in specs], arrays["spec_of"].tolist()
    ends = np.cumsum([flat_weights.size(shapes[place]) for place in places])
    vectors = np.split(arrays["vectors"], ends[:-1])
    return [
        (specs[place], flat_weights.unflatten_one(vector, shapes[place]))
        for place, vector in zip(places, vectors, strict=True)
    ]


def _refuse_other_answers(own: NetworkSpec, first: NetworkSpec, path: pathlib.Path) -> None:
    ours, theirs = ((each.probe_shape, each.response_dim) for each in (own, first))
    if ours != theirs:
        raise BadNetworkError(
            str(path),
            f"reads images {ours[0]} and has {ours[1]} outputs, but the first network reads "
            f"{theirs[0]} and has {theirs[1]}",
        )


def stored(
    folder: pathlib.Path, paths: list[str], spec: NetworkSpec, options: ReadOptions, digest: str
) -> Stored:
    """Networks that stay in their files, in whatever format these are."""

    def read(rows_N: np.ndarray) -> Any:
        stacked = jax.tree.map(
            lambda leaf: _aligned((len(rows_N), *leaf.shape), leaf.dtype), spec.abstract()
        )

        def fill(place: int) -> None:  # one by one: never are there two copies of all
            network = _read(folder / paths[rows_N[place]], spec, options, Notes())
            for into, leaf in zip(jax.tree.leaves(stacked), jax.tree.leaves(network), strict=True):
                into[place] = leaf

        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as threads:
            for _ in threads.map(fill, range(len(rows_N))):
                pass  # an error is raised here
        return stacked

    return Stored(read, digest=digest)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that jax takes for a CPU device as it lies, without a copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _read(path: pathlib.Path, spec: NetworkSpec, options: ReadOptions, notes: Notes) -> Any:
    file = families.weights_file(path)
    if not inr_files.is_network(file.name):
        remedy = f"give {', '.join(inr_files.SUFFIXES)} files"
        raise BadNetworkError(str(path), "is no network file", remedy)
    return networks.read(spec, file, str(path), options, notes)
