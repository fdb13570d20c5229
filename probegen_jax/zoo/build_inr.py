"""The `inr` side of `build_zoo`: a SIREN for each image, its class as the target."""

import argparse
import dataclasses
from typing import Any

HELP = """Fits an implicit neural representation (a SIREN) to each image.

  python -m probegen_jax.build_zoo inr --images=digits --out=zoos/digits
  python -m probegen_jax.build_zoo inr --images=fashion_mnist --num=7000 --out=zoos/small
"""
# How often a network that falls short of --min_psnr is fitted again, from another start.
_RETRIES = 3
_VAL_SHARE = 5_000 / 60_000  # of the images to train on, as in the published zoos


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what only INR zoos have."""
    add = parser.add_argument
    add("--num", type=int, metavar="N", help="so many of the images, drawn by seed (all)")
    add("--preset", choices=["fast"], default="fast", help="how networks are fitted")
    add("--steps", type=int, metavar="N", help="Adam steps for each network")
    add("--learning_rate", type=float, metavar="X", help="at the first step")
    add("--hidden", type=_widths, default=(32, 32), metavar="32,32", help="widths of hidden layers")
    add("--w0", type=float, default=30.0, help="the factor inside every sine (30)")
    add("--copies", type=int, default=1, metavar="K", help="networks for each image (1)")
    add("--min_psnr", type=float, metavar="DB", help="fit again what falls short, up to 3 times")


def _widths(text: str) -> tuple[int, ...]:
    widths = text.split(",")
    if not all(width.isdecimal() and int(width) for width in widths):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of widths; give for example 32,32")
    return tuple(int(width) for width in widths)


def build(options: argparse.Namespace) -> None:
    """Builds what the command line asks for, or goes on with it.

    Raises:
      UserError: the images or the folder are not usable.
    """
    # Imports are here so that a mistake on the command line is told at once.
    import jax
    import numpy as np
    import tensorflow_datasets as tfds

    from probegen_jax.networks import sine, siren
    from probegen_jax.zoo import cache, fit, shards
    from probegen_jax.zoo import images as image_sources
    from probegen_jax.zoo.datasets import built

    images = image_sources.load(
        options.images,
        grayscale=options.grayscale,
        resize=options.resize,
        data_dir=options.data_dir,
    )
    height, width, channels = images.image_shape
    spec = siren.SirenSpec(hidden=options.hidden, out_dim=channels, w0=options.w0)
    recipe = fit.Recipe()
    changed = {"steps": options.steps, "learning_rate": options.learning_rate}
    recipe = dataclasses.replace(recipe, **{k: v for k, v in changed.items() if v is not None})
    networks = _networks(images, options)
    number = len(networks["image"])
    part_size = 256 if jax.default_backend() == "cpu" else 4096
    plan = {
        "family": "inr",
        "images": {"name": images.name, "digest": images.digest},
        "networks": number,
        "copies": options.copies,
        "seed": options.seed,
        "spec": dataclasses.asdict(spec) | {"hidden": list(spec.hidden)},
        "recipe": dataclasses.asdict(recipe),
        "min_psnr": options.min_psnr,
    }
    made_with = {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "part": part_size,
        "code": cache.source_hash(fit, siren, sine),
    }
    with shards.Build(options.out, plan, made_with) as build:
        if not built.is_written(options.out):
            fitter = fit.Fitter(spec, recipe, options.seed)
            pixels = np.concatenate([images.train.images, images.test.images])

            def make(part: int) -> shards.Arrays:
                rows = slice(part * part_size, (part + 1) * part_size)
                image, copy = networks["image"][rows], networks["copy"][rows]
                vectors, psnr = fitter(
                    image_sources.scaled(pixels[image]), copy * len(pixels) + image
                )
                return {"weights": vectors, "psnr": psnr}

            parts = [min(part_size, number - start) for start in range(0, number, part_size)]
            build.run(parts, make, lambda arrays: f"{arrays['psnr'].mean():.1f} dB")

            def examples(split: str) -> Any:
                rows = networks["splits"][split]
                for part in range(rows[0] // part_size, rows[-1] // part_size + 1):
                    arrays = build.read(part)
                    for row in range(part * part_size, part * part_size + len(arrays["psnr"])):
                        if rows[0] <= row <= rows[-1]:
                            offset = row - part * part_size
                            yield {
                                "weights": arrays["weights"][offset],
                                "label": networks["label"][row],
                                "psnr": arrays["psnr"][offset],
                                "image": networks["image"][row],
                                "copy": networks["copy"][row],
                            }

            built.write(
                options.out,
                built.Contents(
                    "inr",
                    {
                        "weights": tfds.features.Tensor(
                            shape=(spec.num_weights,), dtype=np.float32, encoding="bytes"
                        ),
                        "label": np.int32,
                        "psnr": np.float32,
                        "image": np.int32,
                        "copy": np.int32,
                    },
                    {split: lambda s=split: examples(s) for split in networks["splits"]},
                    {
                        "name": f"{images.name}_inr_built",
                        "class_names": list(images.class_names),
                        "image_shape": [height, width],
                        "spec": plan["spec"],
                        "plan": plan,
                    },
                    f"SIRENs fitted to the images of {images.name}, with the image's class.",
                ),
            )
        build.clean()


def _networks(images: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Image, copy and label of each network, in the order train, val, test."""
    import numpy as np

    rng = np.random.default_rng(options.seed)
    total = len(images.train) + len(images.test)
    share = (options.num or total) / total
    chosen = [
        np.sort(rng.permutation(len(part))[: max(1, round(share * len(part)))])
        for part in (images.train, images.test)
    ]
    is_val = np.zeros(len(chosen[0]), bool)
    is_val[rng.permutation(len(is_val))[: max(1, round(_VAL_SHARE * len(is_val)))]] = True
    parts = {
        "train": chosen[0][~is_val],
        "val": chosen[0][is_val],
        "test": len(images.train) + chosen[1],
    }
    image = np.repeat(np.concatenate(list(parts.values())), options.copies).astype(np.int32)
    splits, start = {}, 0
    for split, rows in parts.items():
        splits[split] = range(start, start + len(rows) * options.copies)
        start += len(rows) * options.copies
    labels = np.concatenate([images.train.labels, images.test.labels])
    copies = np.tile(np.arange(options.copies, dtype=np.int32), len(image) // options.copies)
    return {"image": image, "copy": copies, "label": labels[image], "splits": splits}
