"""How fast zoos are prepared and loaded, and how much memory that takes.

    python benchmarks/prepare.py inrs             20,000 synthetic MNIST-INR .pth files
    python benchmarks/prepare.py gs               a weights.npy of the real size, 5.4 GB
    python benchmarks/prepare.py gs --rows=9000   a smaller one

Everything is made in a temporary folder (--folder=DIR puts it elsewhere) and deleted afterwards.
Each stage runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

REPO = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests")]

GB = 1e9
_STEPS = (0, 1, 2, 3, 20, 40, 60, 80, 86)


class AnonymousPeak(threading.Thread):
    """Watches this process's memory without mapped files, which /proc keeps no peak of."""

    def __init__(self):
        super().__init__(daemon=True)
        self.bytes = 0

    def run(self):
        while True:
            self.bytes = max(self.bytes, status("RssAnon"))
            time.sleep(0.02)


def status(key: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def make_inrs(folder: pathlib.Path, number: int) -> None:
    import published_files

    published_files.mnist_inr(folder, number)


def make_gs(folder: pathlib.Path, rows: int) -> None:
    import published_files

    rng = np.random.default_rng(0)
    weights = np.lib.format.open_memmap(
        folder / "weights.npy", "w+", dtype=np.float32, shape=(rows, 4970)
    )
    block = rng.standard_normal((4096, 4970), dtype=np.float32)
    for first in range(0, rows, len(block)):
        part = weights[first : first + len(block)]
        part[:] = block[: len(part)]
        part[:, 0] = np.arange(first, first + len(part))
    weights.flush()
    (folder / "layout.csv").write_text(published_files.LAYOUT)
    columns = (
        ",config.activation,config.dropout,config.init_std,config.l2reg,config.learning_rate,"
        "config.w_init,step,train_accuracy,train_loss,test_accuracy,test_loss\n"
    )
    with gzip.open(folder / "metrics.csv.gz", "wt", compresslevel=1) as file:
        file.write(columns)
        for row in range(rows):
            activation = ("relu", "tanh")[row // len(_STEPS) % 2]
            file.write(
                f"/zoo/{row},{activation},0.1,0.01,0.001,0.0003,he_normal,"
                f"{_STEPS[row % len(_STEPS)]},0.5,1.5,{0.1 + row / rows / 2},1.6\n"
            )
    order = rng.permutation(rows)
    (folder / "nfn_cifar10_split.csv").write_text("\n".join(map(str, [0, *order])))


def stage(what: str, dataset: str, folder: pathlib.Path) -> None:
    """Runs in a process of its own: prepares, or loads, and prints what that took as JSON."""
    from probegen_jax.zoo.prepared.builders import Request
    from probegen_jax.zoo.prepared.reading import read
    from probegen_jax.zoo.published import loading

    if what == "prepare" and dataset == "mnist_inr":
        import torch  # noqa: F401  importing it is not what is measured
    watch = AnonymousPeak()
    watch.start()
    start = time.perf_counter()
    request = Request(manual_dir=folder) if what == "prepare" else None
    builder = loading.prepared(dataset, folder / "data", request=request)
    if what == "load":
        columns, _ = read(builder)
        number = len(columns["path"])
    else:
        number = sum(split.num_examples for split in builder.info.splits.values())
    seconds = time.perf_counter() - start
    result = {"networks": number, "seconds": seconds, "anonymous": watch.bytes}
    print(json.dumps(result | {"peak": status("VmHWM")}))


def measure(what: str, dataset: str, folder: pathlib.Path) -> None:
    command = [sys.executable, __file__, "stage", what, dataset, str(folder)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result = json.loads(output.splitlines()[-1])
    print(
        f"{dataset}: {what} {result['networks']:,} networks: {result['seconds']:.1f} s, "
        f"{result['networks'] / result['seconds']:,.0f} networks/s, peak memory "
        f"{result['peak'] / GB:.2f} GB, of it without mapped files "
        f"{result['anonymous'] / GB:.2f} GB",
        flush=True,
    )


def main() -> None:
    if sys.argv[1:2] == ["stage"]:
        what, dataset, folder = sys.argv[2:]
        stage(what, dataset, pathlib.Path(folder))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("zoo", choices=["inrs", "gs"])
    parser.add_argument("--number", type=int, default=20_000, help="INRs")
    parser.add_argument("--rows", type=int, default=270_000, help="rows of weights.npy")
    parser.add_argument("--folder", help="where the files are made for the time being")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = pathlib.Path(name)
        if options.zoo == "inrs":
            make_inrs(folder, options.number)
            dataset = "mnist_inr"
        else:
            make_gs(folder, options.rows)
            size = (folder / "weights.npy").stat().st_size
            print(f"weights.npy: {size / GB:.2f} GB", flush=True)
            dataset = "cifar10_gs"
        measure("prepare", dataset, folder)
        measure("load", dataset, folder)


if __name__ == "__main__":
    main()
