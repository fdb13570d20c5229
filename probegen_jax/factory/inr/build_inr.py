"""The `inr` side of `build_zoo`: a network that draws each image, its class as the target."""

import argparse
import time
from collections.abc import Iterator
from typing import Any

from probegen_jax.errors import UserError
from probegen_jax.factory.arguments import positive, whole_from, widths

HELP = """Fits an implicit neural representation (a SIREN, or --field=NAME) to each image.

  python -m probegen_jax.build_zoo inr --images=digits --out=zoos/digits
  python -m probegen_jax.build_zoo inr --images=fashion_mnist --num=7000 --out=zoos/small
  python -m probegen_jax.build_zoo inr --images=mnist --preset=dwsnets --out=zoos/like_published
  python -m probegen_jax.build_zoo inr --images=cifar10 --out=zoos/cifar10
  python -m probegen_jax.build_zoo inr --images=cifar10 --augment=3 --moves=flip,shift --out=zoos/c4
  python -m probegen_jax.build_zoo inr --images=mnist --out=zoos/mnist --export=torch
  python -m probegen_jax.build_zoo inr --images=digits --field=rff --out=zoos/digits_rff
  python -m probegen_jax.build_zoo inr --images=volumes:shapes.npz --pixels=512 --out=zoos/shapes

Fields: siren; posenc, a ReLU MLP on sines of the coordinates; rff, one on random Fourier features;
gelu, on sines too; gaussian; wire, of Gabor wavelets. Others than SIRENs start at a rate of 0.02.

Presets: fast is 80 Adam steps from Sitzmann et al.'s start. dwsnets is how the published zoos were
fitted: 1,000 steps at a constant rate on the enlarged image, until 40 dB are reached; it takes some
fifty times as long, and ends with the weights' statistics beside the published ones.

--augment=N fits N further networks to each image, moved a little: at training they are networks
like the others, and of each image the mean prediction over its networks is scored, too.

Layouts: mnist and fmnist are those of Navon et al., nfn that of Zhou et al. (NFN), whose networks
have the row as the first coordinate and draw images in [-1, 1]. It is how cifar10 is built.
"""

# The keys of `fields.FIELDS`; to import that would take a second.
FIELDS = ("siren", "posenc", "rff", "gelu", "gaussian", "wire")


_MOVES = ("flip", "shift", "rotate")
_MOVES_HELP = "how views differ from their image: of flip, shift, rotate (shift,rotate)"


def _moves(text: str) -> tuple[str, ...]:
    """Names of moves, as in `flip,shift`, in their own order."""
    given = text.split(",")
    if not set(given) <= set(_MOVES):
        raise argparse.ArgumentTypeError(f"{text!r} is not some of {','.join(_MOVES)}")
    return tuple(move for move in _MOVES if move in given)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what only INR zoos have."""
    add = parser.add_argument
    add("--num", type=whole_from(3), metavar="N", help="how many of the images, by seed (all)")
    add("--preset", choices=["fast", "dwsnets"], default="fast", help="see above (fast)")
    add("--steps", type=whole_from(1), metavar="N", help="Adam steps for each network")
    add("--learning_rate", type=positive, metavar="X", help="at the first step")
    add("--pixels", type=whole_from(1), metavar="N", help="that a step looks at, at random (all)")
    add("--stop_psnr", type=positive, metavar="DB", help="where a network is not fitted further")
    add("--hidden", type=widths, default=(32, 32), metavar="N,N", help="hidden layers (32,32)")
    add("--field", choices=FIELDS, default="siren", help="kind of network (siren)")
    add("--w0", type=positive, metavar="X", help="factor inside every sine (30; wire: 10)")
    add("--copies", type=whole_from(1), default=1, metavar="K", help="networks an image (1)")
    add("--augment", type=whole_from(0), default=0, metavar="N", help="more networks, of views (0)")
    add("--moves", type=_moves, default=("shift", "rotate"), metavar="M,M", help=_MOVES_HELP)
    add("--min_psnr", type=positive, metavar="DB", help="networks below are fitted again, thrice")
    add("--export", choices=["torch"], help="also write DIR/torch, as the published zoos are")
    help_layout = "published zoo that networks and the export are like (by the images' name)"
    add("--layout", choices=["mnist", "fmnist", "nfn"], help=help_layout)


def build(args: argparse.Namespace) -> None:
    """Builds what the command line asks for, or goes on with it, and reports.

    Raises:
      UserError: the images or the folder are not usable.
    """
    # Imports are here so that a mistake on the command line is reported at once.
    import dataclasses

    import jax

    from probegen_jax import cpu_devices
    from probegen_jax.factory import parts
    from probegen_jax.factory.images import sources
    from probegen_jax.factory.inr import export, fields, fit, fit_inrs, views
    from probegen_jax.zoo import splits
    from probegen_jax.zoo.prepared import build_folder

    images = sources.load(
        args.images, grayscale=args.grayscale, resize=args.resize, data_dir=args.data_dir
    )
    print(images.summary())
    dims, signed = images.dims, images.signed
    channels = images.image_shape[-1]
    layout = args.layout or export.layout_of(images.name)
    about = {"dims": dims, "signed": signed, "layout": layout}
    spec = fields.spec_of(args.field, args.hidden, channels, args.w0, **about)
    if images.train.points is not None and args.preset == "dwsnets":
        raise UserError("--preset=dwsnets enlarges images, and points are none; leave it out")
    if args.field != "siren" and args.preset == "dwsnets":
        raise UserError(
            f"--field is {args.field}, but --preset=dwsnets is for SIRENs; leave one of them out"
        )
    recipe = fit.Recipe() if args.field == "siren" else fit.Recipe(learning_rate=2e-2)
    if layout == "nfn" and args.field == "siren" and channels > 1:
        recipe = fit.COLOURS
    if args.preset == "dwsnets":
        recipe = fit.Recipe(1000, 5e-4, False, "dwsnets", upsample=2, stop_psnr=40.0)
    changed = {key: getattr(args, key) for key in ("steps", "learning_rate", "stop_psnr", "pixels")}
    recipe = dataclasses.replace(recipe, **{k: v for k, v in changed.items() if v is not None})
    moved = views.Views(args.augment, args.moves)
    if args.augment and len(images.image_shape) != 3:
        raise UserError(f"--augment is for images, not for {args.images}; leave it out")
    share = splits.NFN_VAL_SHARE if layout == "nfn" else splits.INR_VAL_SHARE
    networks = fit_inrs.choose(images, args.num, args.copies + args.augment, args.seed, share)
    plan = {
        "family": "inr",
        "images": images.identity,
        "networks": len(networks),
        "copies": args.copies,
        **moved.to_json(),
        "seed": args.seed,
        "spec": _to_json(spec),
        "recipe": recipe.to_json(),
        "min_psnr": args.min_psnr,
    }
    cpu_devices.split(cpu_devices.cores())
    # Parts are not cut by what devices there are, so that a build can go on with others.
    part_size = 512 if jax.default_backend() == "cpu" else 4096
    with parts.Build(args.out, plan, parts.made_with(fit_inrs, part=part_size)) as build:
        if build_folder.is_written(args.out):
            print(f"{args.out} is finished")
        else:
            factory = fit_inrs.InrFactory(
                images,
                networks,
                spec,
                recipe,
                args.seed,
                part_size,
                args.min_psnr,
                args.copies,
                moved,
            )
            started = time.monotonic()
            fitted = build.run(
                factory.sizes, factory.make, lambda arrays: f"{arrays['psnr'].mean():.1f} dB"
            )
            seconds = time.monotonic() - started
            print(f"fitted {fitted:,} networks in {seconds:.0f} s: {fitted / seconds:.1f} a second")
            contents = _contents(images, networks, spec, plan, build, part_size)
            build_folder.write(args.out, contents)
        build.clean()
        _report(args, layout)


def _to_json(spec: Any) -> dict[str, Any]:
    """A spec as the metadata hold it, of SIRENs without a kind."""
    from probegen_jax.networks import registry

    values = registry.to_json(spec) | {"hidden": list(spec.hidden)}
    return {name: value for name, value in values.items() if (name, value) != ("kind", "siren")}


def _contents(images, networks, spec, plan, build, part_size: int):
    """What the data set holds, read from the parts."""
    from probegen_jax.zoo.prepared import schema
    from probegen_jax.zoo.prepared.build_folder import Contents

    def examples(rows: range) -> Iterator[dict[str, Any]]:
        for part in range(rows[0] // part_size, rows[-1] // part_size + 1):
            arrays, start = build.read(part), part * part_size
            for row in range(max(rows[0], start), min(rows[-1] + 1, start + part_size)):
                yield {name: array[row - start] for name, array in arrays.items()} | {
                    name: getattr(networks, name)[row] for name in ("label", "image", "copy")
                }

    return Contents(
        "inr",
        schema.inr(spec.num_weights),
        {split: lambda rows=rows: examples(rows) for split, rows in networks.splits.items()},
        {
            "name": f"{images.name}_inr_built",
            "class_names": list(images.class_names),
            "image_shape": list(images.image_shape[:-1]) if images.train.points is None else [],
            "train_images": len(images.train),
            **{key: plan[key] for key in ("copies", "views", "spec", "recipe") if key in plan},
        },
        f"INRs fitted to the images of {images.name}, with the image's class.",
    )


def _report(args: argparse.Namespace, layout: str) -> None:
    """PSNR of the finished zoo, weights beside the published ones, and the export if wanted."""
    import numpy as np

    from probegen_jax.factory.inr import export
    from probegen_jax.networks import registry
    from probegen_jax.zoo import describe
    from probegen_jax.zoo.prepared import build_folder, built_zoos
    from probegen_jax.zoo.prepared.reading import read

    builder = build_folder.opened(args.out)
    columns, rows = read(builder)
    metadata = dict(builder.info.metadata)
    psnr, starts = (np.asarray(columns[name]) for name in ("psnr", "starts"))
    print(f"PSNR in dB: mean {psnr.mean():.2f}, lowest {psnr.min():.2f}")
    print("\n".join(describe.histogram(psnr, digits=1)))
    if args.min_psnr is not None:
        print(
            f"{(starts > 1).sum():,} networks were fitted again, {starts.max() - 1} times at most; "
            f"{(psnr < args.min_psnr).sum():,} stay below {args.min_psnr:g} dB"
        )
    if args.preset == "dwsnets" and layout != "nfn":
        weights = built_zoos.load(args.out, "inr").weights
        published = {"published std": describe.PUBLISHED_STD[f"{layout}_inr"]}
        print("\n".join(describe.weight_statistics(weights, published)))
    spec, name = registry.points_from_json(dict(metadata["spec"]), "spec"), metadata["name"]
    if args.export:
        folder = args.out / "torch"
        export.export(folder, layout, columns, rows, metadata)
        flags = export.how_to_read(folder, layout, spec, name)
        print(f"exported to {folder}; read it with {flags}")
    config = export.config_of(layout, spec, name)
    print(f"train on it: python -m probegen_jax.train --config=configs/{config} "
          f"--config.zoo_dir={args.out}")  # fmt: skip
