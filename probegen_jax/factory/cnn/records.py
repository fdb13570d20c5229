"""Built CNNs as they are stored: what is kept of each, and which are for what."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.factory.cnn.planned import Planned, split_architectures
from probegen_jax.factory.cnn.train_cnns import CnnFactory, finite
from probegen_jax.factory.images.sources import ImageSet
from probegen_jax.factory.parts import Build
from probegen_jax.networks.cnn import layer_table
from probegen_jax.zoo import flat_weights, splits
from probegen_jax.zoo.prepared import build_folder, schema


def write(build: Build, factory: CnnFactory, images: ImageSet, plan: Mapping[str, Any]) -> None:
    """Writes the data set from the parts, and tells what is in it.

    Raises:
      UserError: no network is finite, or too few are for a split of each kind.
    """
    # Of each run its part, its row there, and its checkpoints that are finite.
    kept: dict[int, tuple[int, int, list[int]]] = {}
    dropped, astray, scores = 0, 0, []
    for part, members in enumerate(factory.parts):
        arrays = build.read(part)
        for row, index in enumerate(members):
            checkpoints = finite(factory.planned[index], arrays, row)
            dropped += len(factory.planned[index].units) - len(checkpoints)
            if checkpoints:
                kept[index] = part, row, checkpoints
                # Above twice the loss of guessing.
                loss = float(arrays["train_loss"][row, checkpoints[-1]])
                astray += not loss <= 2 * np.log(images.num_classes)
                scores += arrays["test_accuracy"][row, checkpoints].tolist()
    if not kept:
        raise UserError(
            f"{build.out}: no network has finite weights; lower the space's learning_rate"
        )

    def examples(runs: Sequence[int]) -> Iterator[dict[str, Any]]:
        in_order = sorted(runs, key=lambda index: kept[index][:2])
        for part, of_part in itertools.groupby(in_order, lambda index: kept[index][0]):
            arrays = build.read(part)  # one part at a time in memory
            for index in of_part:
                _, row, checkpoints = kept[index]
                for k in checkpoints:
                    yield _example(factory.planned[index], arrays, row, k)

    shares = plan["split"]["val_share"], plan["split"]["test_share"]
    if plan["split"]["by"] == "run":
        runs_of = splits.seeded(sorted(kept), *shares, where=build.out)
    else:
        runs_of = split_architectures(factory.planned, sorted(kept), *shares, where=build.out)
    summary = {
        "networks": len(scores),
        "runs": len(kept),
        "architectures": len({factory.planned[index].spec for index in kept}),
        "not_finite": dropped,
        "diverged": astray,
    }
    contents = build_folder.Contents(
        "cnn",
        schema.cnn(),
        {split: lambda runs=runs: examples(runs) for split, runs in runs_of.items()},
        {
            "name": f"{images.name}_cnn_built",
            "image_shape": list(images.image_shape),
            "pixels": dataclasses.asdict(factory.pixels),
            "summary": summary,
            "plan": plan,
        },
        f"CNNs trained on the images of {images.name}, with their test accuracy.",
    )
    build_folder.write(build.out, contents)
    counts, edges = np.histogram(scores, bins=10, range=(0, 1))
    bins = [f"{low:.1f}: {count}" for low, count in zip(edges[:-1], counts, strict=True) if count]
    print(
        f"{summary['networks']:,} networks from {summary['runs']:,} runs of "
        f"{summary['architectures']:,} architectures; {dropped} left out for weights that are not "
        f"finite, {astray} runs diverged\n"
        f"test accuracy {min(scores):.3f} to {max(scores):.3f}, median {np.median(scores):.3f}; "
        + ", ".join(bins)
    )


def _example(
    network: Planned, arrays: Mapping[str, np.ndarray], row: int, k: int
) -> dict[str, Any]:
    spec, run = network.spec, network.run
    weights = flat_weights.unflatten_one(arrays["weights"][row, k], spec.abstract())
    # The fields of a layer are in the order of the table's columns.
    table = [
        [*(vars(layer) | {"activation": layer_table.ACTIVATIONS.index(layer.activation)}).values()]
        for layer in spec.layers
    ]
    values = {name: getattr(run, name, None) for name in schema.SETTINGS}
    values |= {"train_fraction": network.train_fraction, "epochs": network.units[-1]}
    return {
        "layers": np.asarray(table, np.int32),
        "weights": layer_table.flatten(weights),
        "num_classes": spec.num_classes,
        "score": arrays["test_accuracy"][row, k],
        **{name: arrays[name][row, k] for name in schema.METRICS},
        "iteration": network.units[k],
        "run": run.index,
        **{name: v if name in schema.TEXT else np.float32(v) for name, v in values.items()},
    }
