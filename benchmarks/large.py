"""Trains on a folder of ResNet-18s, streamed from their files.

    python -m benchmarks.large                       200 networks of 45 MB, five steps of 32
    python -m benchmarks.large --batch_size=8 --networks=50 --probes=8

The files are sparse: they say 45 MB each and take no space, and all weights are 0. The networks are
no use, but every byte of each is read, checked, sent to the device and computed with. As pages come
from the kernel and not from a disk, the speed is that of everything but the disk.
"""

import argparse
import json
import pathlib
import tempfile
import time

import jax
import numpy as np

from benchmarks.prepare import status
from probegen_jax import train
from probegen_jax.networks.resnet.resnet import ResNetSpec
from probegen_jax.training import streaming

CLASSES, SIZE = 10, 64
SPEC = ResNetSpec(
    **{"widths": (64, 128, 256, 512), "depths": (2, 2, 2, 2), "stem_width": 64, "stem_kernel": 7},
    **{"stem_stride": 2, "stem_pool": True, "image_shape": (SIZE, SIZE, 3)},
)


def torchvision_shapes(spec: ResNetSpec) -> dict[str, tuple[int, ...]]:
    """The arrays of a ResNet of basic blocks, as torchvision names them."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name, norm, layer):
        shapes[f"{name}.weight"] = (layer.out_channels, layer.in_channels, *[layer.kernel] * 2)
        for array in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{array}"] = (layer.out_channels,)

    conv("conv1", "bn1", spec.stem)
    for s, blocks in enumerate(spec.stages, 1):
        for b, block in enumerate(blocks):
            for i, layer in enumerate(block.layers, 1):
                conv(f"layer{s}.{b}.conv{i}", f"layer{s}.{b}.bn{i}", layer)
            if block.shortcut is not None:
                conv(f"layer{s}.{b}.downsample.0", f"layer{s}.{b}.downsample.1", block.shortcut)
    return shapes | {"fc.weight": (CLASSES, spec.widths[-1]), "fc.bias": (CLASSES,)}


def write_sparse(path: pathlib.Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A file of safetensors of zeros, which takes no space."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def make_zoo(folder: pathlib.Path, number: int) -> None:
    """`number` networks and their CSV: eight tenths to train on."""
    lines = ["path,target,split"]
    for n in range(number):
        write_sparse(folder / f"{n}.safetensors", torchvision_shapes(SPEC))
        split = "val" if n % 10 == 8 else "test" if n % 10 == 9 else "train"
        lines.append(f"{n}.safetensors,{'ab'[n // 10 % 2]},{split}")
    (folder / "targets.csv").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--probes", type=int, default=32)
    options = parser.parse_args()
    peaks: list[tuple[float, float]] = []  # when a step's networks are on the device, and memory
    stretch = streaming.Streamed.stretch

    def noted(*args):
        found = stretch(*args)
        jax.block_until_ready(found.weights)
        peaks.append((time.perf_counter(), status("VmHWM") / 1e9))
        return found

    streaming.Streamed.stretch = noted
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "zoo").mkdir()
        make_zoo(folder / "zoo", options.networks)
        megabytes = (folder / "zoo" / "0.safetensors").stat().st_size / 1e6
        flags = {
            "networks_dir": folder / "zoo",
            "targets_csv": folder / "zoo" / "targets.csv",
            "data_dir": folder / "cache",
            "image_size": SIZE,
            "batch_size": options.batch_size,
            "num_epochs": 1,
            "data.mode": "stream",
            "report": False,
        }
        started = time.perf_counter()
        train.main(
            [
                *("train", f"--config=configs/own_networks.py:{options.probes}"),
                f"--workdir={folder / 'run'}",
                *(f"--config.{key}={value}" for key, value in flags.items()),
            ]
        )
        seconds = time.perf_counter() - started
        result = json.loads((folder / "run" / "result.json").read_text())
        kept = sum(file.stat().st_size for file in (folder / "cache").rglob("*.npz"))
    figures = {
        "networks": options.networks,
        "megabytes_each": megabytes,
        "megabytes_kept_beside_the_files": kept / 1e6,
        "batch_size": options.batch_size,
        "probes": options.probes,
        "steps": result["steps"],
        "seconds_from_first_step_to_last": peaks[-1][0] - peaks[0][0],
        "seconds_in_all": seconds,
        "peak_gb_at_each_step": [round(peak, 2) for _, peak in peaks],
        "peak_gb": status("VmHWM") / 1e9,
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
