"""The `cnn` side of `build_zoo`: CNNs drawn from a search space, their test accuracy the target."""

import argparse
import contextlib

from probegen_jax.errors import UserError
from probegen_jax.factory.arguments import share, whole_from

# So many networks are worth the seconds that processes take to begin.
_MANY = 100

HELP = """Trains CNNs of many kinds on the images; how well each does is to be predicted.

  python -m probegen_jax.build_zoo cnn --images=mnist --num=1000 --out=zoos/mnist_cnn
  python -m probegen_jax.build_zoo cnn --images=cifar10 --resize=16 --num=200 \\
      --space=wild_park --out=zoos/park --export=torch
  python -m probegen_jax.build_zoo cnn --images=digits --num=50 --space=mine.py --out=zoos/mine

Search spaces: small_cnn_zoo (Unterthiner et al., one architecture, grayscale images), wild_park
(Kofinas et al., many architectures with residual links), many_architectures (the same kinds, one
network of each, for whole images), digits_cnn (small and quick), or a file of yours with
get_space(). Networks whose weights are not finite are left out and counted.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what only CNN zoos have."""
    add = parser.add_argument
    add("--num", type=whole_from(3), required=True, metavar="N", help="networks to train")
    add("--space", default="small_cnn_zoo", metavar="NAME|FILE.py", help="what they are drawn from")
    add("--val_share", type=share, default=0.1, metavar="X", help="of the runs (0.1)")
    add("--test_share", type=share, default=0.2, metavar="X", help="of the runs (0.2)")
    in_two_splits = "what is never in two splits: a training run (the default), or an architecture"
    add("--split_by", choices=["run", "architecture"], default="run", help=in_two_splits)
    add("--export", choices=["torch"], help="also write the published layout, to OUT/torch")


def build(args: argparse.Namespace) -> None:
    """Builds what the command line asks for, or goes on with it.

    Raises:
      UserError: the images, the space or the folder are not usable.
    """
    # Imports are here so that a mistake on the command line is reported at once.
    from probegen_jax.factory import parts
    from probegen_jax.factory.cnn import export, records, search_space, train_cnns
    from probegen_jax.factory.images import sources
    from probegen_jax.zoo.prepared import build_folder

    space = search_space.read(args.space)
    images = sources.load(
        args.images, grayscale=args.grayscale, resize=args.resize, data_dir=args.data_dir
    )
    if images.dims != 2 or images.train.points is not None:
        raise UserError(f"--images={args.images} are no images, and CNNs are trained on images")
    print(images.summary())
    split = {"by": args.split_by, "val_share": args.val_share, "test_share": args.test_share}
    plan = {
        "family": "cnn",
        "images": images.identity,
        "networks": args.num,
        "seed": args.seed,
        "space": space,
        "split": split,
    }
    factory = train_cnns.CnnFactory(
        images, space, args.num, args.seed, where=args.space, processes=args.num >= _MANY
    )
    with parts.Build(args.out, plan, parts.made_with(train_cnns)) as build:
        if not build_folder.is_written(args.out):
            with contextlib.closing(factory):
                build.run(
                    [len(part) for part in factory.parts],
                    factory.make,
                    lambda arrays: f"{arrays['test_accuracy'][:, -1].mean():.3f} accuracy",
                )
            records.write(build, factory, images, plan)
        if args.export:
            export.export(args.out, images.name)
        build.clean()
