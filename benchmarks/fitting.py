"""Fitting SIRENs to images, beside a PyTorch loop that fits the same networks one at a time.

    python -m benchmarks.fitting                                 digits that the script draws, 28×28
    python -m benchmarks.fitting --images=idx:DIR                MNIST's files
    python -m benchmarks.fitting --networks=64 --loop=4 --rounds=3

Both sides make the same steps (Adam, all pixels a step, a cosine to 0) from the same kind of start,
in turn in one process; medians of the seconds for a network are compared, and the PSNRs are told.
Ours are fitted `--networks` at a time on a device for each core, PyTorch's one after the other with
its threads on all cores.
"""

import argparse
import itertools
import json
import math
import os
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))


def drawn_digits(number: int) -> np.ndarray:
    """MNIST-like images: scikit-learn's 8×8 digits, enlarged into the middle of 28×28."""
    from PIL import Image
    from sklearn.datasets import load_digits

    images = np.zeros((number, 28, 28, 1), np.float32)
    for image, digit in zip(images, itertools.cycle(load_digits().images), strict=False):
        small = Image.fromarray((digit * (255 / 16)).astype(np.uint8))
        image[4:24, 4:24, 0] = np.asarray(small.resize((20, 20), Image.Resampling.BICUBIC)) / 255
    return images


def torch_loop(spec, recipe, images: np.ndarray) -> list[float]:
    """Fits a network to each image as anyone would in PyTorch; returns the PSNRs."""
    import torch

    height, width = images.shape[1:3]
    coordinates = torch.from_numpy(spec.pixel_coordinates(height, width))
    psnr = []
    for index, image in enumerate(images):
        torch.manual_seed(index)
        pixels = torch.from_numpy(image.reshape(height * width, -1))
        layers = [torch.nn.Linear(m, n) for m, n in itertools.pairwise(spec.sizes)]
        for number, layer in enumerate(layers):
            fan_in = layer.in_features
            bound = math.sqrt(6 / fan_in) / spec.w0 if number else 1 / fan_in
            torch.nn.init.uniform_(layer.weight, -bound, bound)
            torch.nn.init.zeros_(layer.bias)

        def draw(layers=layers):
            x = coordinates
            for layer in layers[:-1]:
                x = torch.sin(spec.w0 * layer(x))
            return layers[-1](x) + spec.output_shift

        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        optimizer = torch.optim.Adam(parameters, recipe.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
        for _ in range(recipe.steps):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(draw(), pixels).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            psnr.append(-10 * math.log10(torch.nn.functional.mse_loss(draw(), pixels).item()))
    return psnr


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", help="a source as for build_zoo; drawn digits if not given")
    parser.add_argument("--networks", type=int, default=256, help="ours, a round")
    parser.add_argument("--loop", type=int, default=16, help="PyTorch's, a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    import jax

    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    import torch

    from probegen_jax.factory.images import sources
    from probegen_jax.factory.inr import fit
    from probegen_jax.networks.siren import SirenSpec

    if options.images:
        pixels = sources.scaled(sources.load(options.images).train.images[: options.networks])
    else:
        pixels = drawn_digits(options.networks)
    spec, recipe = SirenSpec(out_dim=pixels.shape[-1]), fit.Recipe()
    shape = tuple(pixels.shape[1:])
    block = fit.default_block_size(spec, recipe, shape, jax.local_devices()[0].platform)
    blocks = -(-len(pixels) // (block * jax.local_device_count()))
    fitter = fit.Fitter(spec, recipe, 0, shape, blocks=blocks)
    indices = np.arange(len(pixels))
    sides = {
        "ours": lambda: fitter(pixels, indices)[1],
        "torch": lambda: torch_loop(spec, recipe, pixels[: options.loop]),
    }
    started = time.perf_counter()
    sides["ours"]()
    compile_seconds = time.perf_counter() - started
    sides["torch"]()
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    psnr = {}
    for _ in range(options.rounds):
        for side, run in sides.items():
            started = time.perf_counter()
            psnr[side] = np.asarray(run())
            seconds[side].append((time.perf_counter() - started) / len(psnr[side]))
    medians = {side: float(np.median(times)) for side, times in seconds.items()}
    figures = {
        "steps": recipe.steps,
        "devices": jax.local_device_count(),
        "torch_threads": torch.get_num_threads(),
        "seconds_per_network": {
            side: {"median": medians[side], "min": min(times), "max": max(times)}
            for side, times in seconds.items()
        },
        "networks_per_second": {side: 1 / median for side, median in medians.items()},
        "psnr": {side: float(values.mean()) for side, values in psnr.items()},
        "times_faster": medians["torch"] / medians["ours"],
        "first_call_seconds": compile_seconds,
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
