"""The `inr` side of `build_zoo`: a SIREN for each image, its class as the target."""

import argparse
import time
from collections.abc import Iterator
from typing import Any

from probegen_jax.factory.arguments import positive, whole_from, widths

HELP = """Fits an implicit neural representation (a SIREN) to each image.

  python -m probegen_jax.build_zoo inr --images=digits --out=zoos/digits
  python -m probegen_jax.build_zoo inr --images=fashion_mnist --num=7000 --out=zoos/small
  python -m probegen_jax.build_zoo inr --images=mnist --preset=dwsnets --out=zoos/like_published
  python -m probegen_jax.build_zoo inr --images=mnist --out=zoos/mnist --export=torch

Presets: fast is 80 Adam steps from Sitzmann et al.'s start. dwsnets is how the published zoos were
fitted: 1,000 steps at a constant rate on the enlarged image, until 40 dB are reached; it takes some
fifty times as long, and ends with the weights' statistics beside the published ones.
"""
# How often a network that falls short of --min_psnr is fitted again, from another start.
RETRIES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what only INR zoos have."""
    add = parser.add_argument
    add("--num", type=whole_from(3), metavar="N", help="so many of the images, by seed (all)")
    add("--preset", choices=["fast", "dwsnets"], default="fast", help="see above (fast)")
    add("--steps", type=whole_from(1), metavar="N", help="Adam steps for each network")
    add("--learning_rate", type=positive, metavar="X", help="at the first step")
    add("--hidden", type=widths, default=(32, 32), metavar="N,N", help="hidden layers (32,32)")
    add("--w0", type=positive, default=30.0, metavar="X", help="factor inside every sine (30)")
    add("--copies", type=whole_from(1), default=1, metavar="K", help="networks an image (1)")
    add("--min_psnr", type=positive, metavar="DB", help="networks below are fitted again, thrice")
    add("--export", choices=["torch"], help="also write DIR/torch, as the published zoos are")
    add("--layout", choices=["mnist", "fmnist"], help="of the export (by the images' name)")


def build(options: argparse.Namespace) -> None:
    """Builds what the command line asks for, or goes on with it, and reports.

    Raises:
      UserError: the images or the folder are not usable.
    """
    # Imports are here so that a mistake on the command line is told at once.
    import dataclasses

    import jax

    from probegen_jax.factory import parts
    from probegen_jax.factory.images import sources as image_sources
    from probegen_jax.factory.inr import fit, planned
    from probegen_jax.networks import sine, siren
    from probegen_jax.zoo import cache
    from probegen_jax.zoo.prepared import build_folder

    images = image_sources.load(
        options.images,
        grayscale=options.grayscale,
        resize=options.resize,
        data_dir=options.data_dir,
    )
    spec = siren.SirenSpec(hidden=options.hidden, out_dim=images.image_shape[2], w0=options.w0)
    recipe = fit.Recipe()
    if options.preset == "dwsnets":
        recipe = fit.Recipe(1000, 5e-4, False, "dwsnets", upsample=2, stop_psnr=40.0)
    changed = {"steps": options.steps, "learning_rate": options.learning_rate}
    recipe = dataclasses.replace(recipe, **{k: v for k, v in changed.items() if v is not None})
    networks = planned.choose(images, options.num, options.copies, options.seed)
    plan = {
        "family": "inr",
        "images": {"name": images.name, "digest": images.digest},
        "networks": len(networks),
        "copies": options.copies,
        "seed": options.seed,
        "spec": dataclasses.asdict(spec) | {"hidden": list(spec.hidden)},
        "recipe": dataclasses.asdict(recipe),
        "min_psnr": options.min_psnr,
    }
    _use_all_cores()
    # Parts are not cut by what devices there are, so that a build can go on with others.
    part_size = 512 if jax.default_backend() == "cpu" else 4096
    made_with = {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "part": part_size,
        "code": cache.source_hash(fit, siren, sine),
    }
    with parts.Build(options.out, plan, made_with) as build:
        if build_folder.is_written(options.out):
            print(f"{options.out} is finished")
        else:
            make = _part_maker(images, networks, spec, recipe, options, part_size)
            number = len(networks)
            sizes = [min(part_size, number - start) for start in range(0, number, part_size)]
            started = time.monotonic()
            fitted = build.run(sizes, make, lambda arrays: f"{arrays['psnr'].mean():.1f} dB")
            seconds = time.monotonic() - started
            print(f"fitted {fitted:,} networks in {seconds:.0f} s: {fitted / seconds:.1f} a second")
            contents = _contents(images, networks, spec, plan, build, part_size)
            build_folder.write(options.out, contents)
        build.clean()
        _report(options)


def _use_all_cores() -> None:
    """Makes each core a device of its own: loops that XLA runs on one device leave cores idle."""
    import contextlib
    import os

    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # Refused where this process has used jax already; it keeps its devices then.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def _part_maker(images, networks, spec, recipe, options, part_size: int):
    """A function that fits the networks of a part."""
    import jax
    import numpy as np

    from probegen_jax.errors import UserError
    from probegen_jax.factory import parts
    from probegen_jax.factory.images.sources import scaled
    from probegen_jax.factory.inr import fit

    block = fit.default_block_size(spec, recipe, images.image_shape)
    blocks = -(-part_size // (block * jax.local_device_count()))
    fitter = fit.Fitter(spec, recipe, options.seed, images.image_shape, blocks=blocks)
    pixels = np.concatenate([images.train.images, images.test.images])

    def make(part: int) -> parts.Arrays:
        rows = slice(part * part_size, (part + 1) * part_size)
        targets = scaled(pixels[networks.image[rows]])
        # An image's network is the same, however many images or copies are fitted.
        indices = networks.copy[rows] * len(pixels) + networks.image[rows]
        weights, psnr = fitter(targets, indices)
        starts = np.ones(len(psnr), np.int32)
        for attempt in range(1, RETRIES + 1):
            # A network that diverged is not above anything.
            short = np.flatnonzero(~(psnr >= (options.min_psnr or -np.inf)))
            if not len(short):
                break
            again, better = fitter(targets[short], indices[short], attempt)
            starts[short] += 1
            won = ~(psnr[short] >= better)
            weights[short[won]], psnr[short[won]] = again[won], better[won]
        if not np.isfinite(weights).all() or not np.isfinite(psnr).all():
            raise UserError(
                f"networks diverge at learning rate {recipe.learning_rate}; give a lower one with "
                "--learning_rate=X and another folder with --out=DIR"
            )
        return {"weights": weights, "psnr": psnr, "starts": starts}

    return make


def _contents(images, networks, spec, plan, build, part_size: int):
    """What the data set holds, read from the parts."""
    import numpy as np
    import tensorflow_datasets as tfds

    from probegen_jax.zoo.prepared.build_folder import Contents

    def examples(rows: range) -> Iterator[dict[str, Any]]:
        for part in range(rows[0] // part_size, rows[-1] // part_size + 1):
            arrays, start = build.read(part), part * part_size
            for row in range(max(rows[0], start), min(rows[-1] + 1, start + part_size)):
                yield {name: array[row - start] for name, array in arrays.items()} | {
                    name: getattr(networks, name)[row] for name in ("label", "image", "copy")
                }

    height, width, _ = images.image_shape
    vector = tfds.features.Tensor(shape=(spec.num_weights,), dtype=np.float32, encoding="bytes")
    numbers = dict.fromkeys(("label", "image", "copy", "starts"), np.int32)
    return Contents(
        "inr",
        {"weights": vector, "psnr": np.float32, **numbers},
        {split: lambda rows=rows: examples(rows) for split, rows in networks.splits.items()},
        {
            "name": f"{images.name}_inr_built",
            "class_names": list(images.class_names),
            "image_shape": [height, width],
            "train_images": len(images.train),
            "copies": plan["copies"],
            "spec": plan["spec"],
            "recipe": plan["recipe"],
        },
        f"SIRENs fitted to the images of {images.name}, with the image's class.",
    )


def _report(options: argparse.Namespace) -> None:
    """PSNR of the finished zoo, weights beside the published ones, and the export if wanted."""
    import numpy as np

    from probegen_jax.factory.inr import export
    from probegen_jax.zoo import describe
    from probegen_jax.zoo.prepared import build_folder, built_zoos
    from probegen_jax.zoo.prepared.reading import read

    builder = build_folder.opened(options.out)
    columns, rows = read(builder)
    metadata = dict(builder.info.metadata)
    psnr, starts = (np.asarray(columns[name]) for name in ("psnr", "starts"))
    print(f"PSNR in dB: mean {psnr.mean():.2f}, lowest {psnr.min():.2f}")
    print("\n".join(describe.histogram(psnr, digits=1)))
    if options.min_psnr is not None:
        print(
            f"{(starts > 1).sum():,} networks were fitted again, {starts.max() - 1} times at most; "
            f"{(psnr < options.min_psnr).sum():,} stay below {options.min_psnr:g} dB"
        )
    layout = options.layout or export.layout_for(metadata["name"])
    if options.preset == "dwsnets":
        zoo = built_zoos.load(options.out, "inr")
        published = describe.PUBLISHED_STD[f"{layout}_inr"]
        print("\n".join(describe.weight_statistics(zoo, published)))
    if options.export:
        folder = options.out / "torch"
        export.export(folder, layout, columns, rows, metadata)
        print(f"exported to {folder}; read it with --config=configs/{layout}.py "
              f"--config.manual_dir={folder}")  # fmt: skip
    print(f"train on it: python -m probegen_jax.train --config=configs/{layout}.py "
          f"--config.zoo_dir={options.out}")  # fmt: skip
