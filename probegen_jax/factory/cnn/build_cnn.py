"""The `cnn` side of `build_zoo`: CNNs drawn from a search space, their test accuracy the target."""

import argparse
from collections.abc import Iterator
from typing import Any

from probegen_jax.factory.arguments import whole_from

HELP = """Trains CNNs of many kinds on the images; how well each does is to be predicted.

  python -m probegen_jax.build_zoo cnn --images=mnist --num=1000 --out=zoos/mnist_cnn
  python -m probegen_jax.build_zoo cnn --images=cifar10 --resize=16 --num=200 \\
      --space=wild_park --out=zoos/park --export=torch
  python -m probegen_jax.build_zoo cnn --images=digits --num=50 --space=mine.py --out=zoos/mine

Search spaces: small_cnn_zoo (Unterthiner et al., one architecture, grayscale images), wild_park
(Kofinas et al., many architectures with residual links), digits_cnn (small and quick), or a file
of yours with get_space(). Networks whose weights are not finite are left out and counted.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what only CNN zoos have."""
    add = parser.add_argument
    add("--num", type=whole_from(3), required=True, metavar="N", help="networks to train")
    add("--space", default="small_cnn_zoo", metavar="NAME|FILE.py", help="what they are drawn from")
    add("--val_share", type=_share, default=0.1, metavar="X", help="of the runs (0.1)")
    add("--test_share", type=_share, default=0.2, metavar="X", help="of the runs (0.2)")
    add(
        "--split_by",
        choices=["run", "architecture"],
        default="run",
        help="what is never in two splits: a training run (the default), or an architecture",
    )
    add("--export", choices=["torch"], help="also write the published layout, to OUT/torch")


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value


def build(options: argparse.Namespace) -> None:
    """Builds what the command line asks for, or goes on with it.

    Raises:
      UserError: the images, the space or the folder are not usable.
    """
    # Imports are here so that a mistake on the command line is told at once.
    from probegen_jax.factory import parts
    from probegen_jax.factory.cnn import export, search_space, train_cnns
    from probegen_jax.factory.images import sources
    from probegen_jax.zoo.prepared import build_folder

    space = search_space.read(options.space)
    source = sources.load(
        options.images,
        grayscale=options.grayscale,
        resize=options.resize,
        data_dir=options.data_dir,
    )
    print(source.summary())
    plan = {
        "family": "cnn",
        "images": source.identity,
        "networks": options.num,
        "seed": options.seed,
        "space": space,
        "split": {
            "by": options.split_by,
            "val_share": options.val_share,
            "test_share": options.test_share,
        },
    }
    factory = train_cnns.CnnFactory(source, space, options.num, options.seed, where=options.space)
    with parts.Build(options.out, plan, parts.made_with(train_cnns)) as build:
        if not build_folder.is_written(options.out):
            try:
                build.run([len(part) for part in factory.parts], factory.make, _shown)
            finally:
                factory.close()
            _assemble(build, factory, source, plan)
        if options.export:
            export.export(options.out, source.name)
        build.clean()


def _shown(arrays: dict[str, Any]) -> str:
    return f"{arrays['test_accuracy'][:, -1].mean():.3f} accuracy"


def _assemble(build: Any, factory: Any, source: Any, plan: dict[str, Any]) -> None:
    """Writes the data set from the parts."""
    import numpy as np

    from probegen_jax.errors import UserError
    from probegen_jax.factory.cnn import records, train_cnns
    from probegen_jax.zoo.prepared import build_folder, schema

    where, kept, dropped, astray, scores = {}, {}, 0, 0, []
    for part, members in enumerate(factory.parts):
        arrays = build.read(part)
        for row, index in enumerate(members):
            network = factory.planned[index]
            rows = train_cnns.finite(network, arrays, row)
            dropped += len(network.units) - len(rows)
            if rows:
                where[index], kept[index] = (part, row), rows
                loss = float(arrays["train_loss"][row, rows[-1]])
                astray += train_cnns.diverged(loss, source.num_classes)
                scores += arrays["test_accuracy"][row, rows].tolist()
    if not kept:
        raise UserError(
            f"{build.out}: no network has finite weights; lower the space's learning_rate"
        )
    splits = records.split(sorted(kept), factory.planned, plan["split"], build.out)

    def examples(split: str) -> Iterator[dict[str, Any]]:
        # One part at a time in memory; a part's networks are of neighbouring numbers.
        part, arrays = -1, {}
        for index in sorted(splits[split], key=lambda index: (where[index][0], index)):
            if where[index][0] != part:
                part = where[index][0]
                arrays = build.read(part)
            for k in kept[index]:
                yield records.example(factory.planned[index], index, arrays, where[index][1], k)

    summary = {
        "networks": len(scores),
        "runs": len(kept),
        "architectures": len({factory.planned[index].spec for index in kept}),
        "not_finite": dropped,
        "diverged": astray,
    }
    metadata = {
        "name": f"{source.name}_cnn_built",
        "image_shape": list(source.image_shape),
        "summary": summary,
        "plan": plan,
    }
    build_folder.write(
        build.out,
        build_folder.Contents(
            "cnn",
            schema.cnn(),
            {split: lambda s=split: examples(s) for split in splits},
            metadata,
            f"CNNs trained on the images of {source.name}, with their test accuracy.",
        ),
    )
    counts, edges = np.histogram(scores, bins=10, range=(0, 1))
    print(
        f"{summary['networks']:,} networks from {summary['runs']:,} runs of "
        f"{summary['architectures']:,} architectures; {dropped} left out for weights that are not "
        f"finite, {astray} runs diverged\n"
        f"test accuracy {min(scores):.3f} to {max(scores):.3f}, median {np.median(scores):.3f}; "
        + ", ".join(
            f"{low:.1f}: {count}" for low, count in zip(edges[:-1], counts, strict=True) if count
        )
    )
