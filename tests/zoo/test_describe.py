import numpy as np
import pytest

from probegen_jax.networks.siren import SirenSpec
from probegen_jax.zoo import describe, flat_weights
from probegen_jax.zoo.zoo import Zoo


def make_zoo(name="mine", task="classification", **changes) -> Zoo:
    spec = SirenSpec()
    rng = np.random.default_rng(0)
    weights = flat_weights.unflatten(
        rng.standard_normal((60, 1185)).astype(np.float32), spec.abstract()
    )
    targets = np.arange(60, dtype=np.int32) % 4
    if task == "regression":
        targets = np.linspace(0, 1, 60, dtype=np.float32)
    parts = np.split(np.arange(60, dtype=np.int32), [40, 50])
    rows = dict(zip(("train", "val", "test"), parts, strict=True))
    return Zoo(
        name, spec, weights, targets, rows, task, 10 if task != "regression" else 1, **changes
    )


def test_counts_sizes_and_classes():
    text = make_zoo().describe()
    assert text.startswith(
        "mine: 60 networks of 1,185 weights, classification into 10 classes\n"
        "  train 40, val 10, test 10\n"
    )
    lines = text.splitlines()
    assert lines[lines.index("targets") + 1].split() == ["0", "15", "█" * 40]
    assert lines[lines.index("targets") + 10].split() == ["9", "0"]
    assert "published" not in text


def test_values_and_runs():
    text = make_zoo(task="regression", runs_N=np.arange(60) // 6).describe()
    assert "60 networks of 1,185 weights, regression" in text
    assert "from 10 training runs" in text
    assert "0.900 to 1.000        6" in text


def test_how_well_networks_draw():
    text = make_zoo(psnr_N=np.linspace(20, 40, 60, dtype=np.float32)).describe()
    assert "\nPSNR in dB: mean 30.0, quartiles 25.0, 30.0, 35.0, lowest 20.0\n" in text
    assert "  38.0 to 40.0        6  █" in text
    alike = describe.psnr(np.full(3, 25.5), "PSNR")
    assert alike == ["PSNR: mean 25.5, quartiles 25.5, 25.5, 25.5, lowest 25.5"]


def test_other_zoos_of_the_published_shape_stand_beside_both_published_ones():
    lines = make_zoo("digits").describe().splitlines()
    (header,) = (line for line in lines if line.startswith("weights"))
    assert header.split()[-4:] == ["MNIST-INR's", "std", "FMNIST-INR's", "std"]
    (line,) = (line for line in lines if "1.kernel" in line)
    assert line.split()[-2:] == ["0.0183", "0.0324"]
    spec = SirenSpec(hidden=(16, 32))
    weights = flat_weights.unflatten(np.ones((3, spec.num_weights), np.float32), spec.abstract())
    assert describe.published("mine", weights) == {}


def test_counts_in_a_row_are_most_first_and_not_endless():
    assert describe.in_a_row({"tanh": 2, "relu": 3000}) == "relu 3,000, tanh 2"
    assert describe.in_a_row({str(n): 1 for n in range(14)}).endswith("11 1 and 2 more")


def test_weights_stand_beside_the_published_statistics():
    text = make_zoo("mnist_inr").describe()
    (line,) = (line for line in text.splitlines() if "1.kernel" in line)
    assert line.split()[1:3] == ["(32,", "32)"]
    assert line.split()[-1] == "0.0183"
    assert float(line.split()[-2]) == pytest.approx(1.0, abs=0.02)


def test_statistics_are_numpys():
    values = np.random.default_rng(0).normal(3, 2, (10_000, 7)).astype(np.float32)
    mean, std = describe.mean_and_std(values)
    assert mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-9)
    assert std == pytest.approx(values.std(dtype=np.float64), rel=1e-9)


FILES = {"mnist_inr": "mnist", "fmnist_inr": "fmnist", "cifar10_gs": "zoo_cifar_nfn"}


@pytest.mark.parametrize("dataset", FILES)
def test_the_published_statistics_are_those_of_the_publishers(dataset, shared):
    torch = pytest.importorskip("torch")
    file = shared / "data" / "splits" / f"{FILES[dataset]}_statistics.pth"
    statistics = torch.load(file, map_location="cpu", weights_only=True)
    ours = describe.PUBLISHED_STD[dataset]
    theirs = {}
    depth = len(statistics["weights"]["std"])
    for kind, name in (("weights", "kernel"), ("biases", "bias")):
        for i, (mean, std) in enumerate(
            zip(statistics[kind]["mean"], statistics[kind]["std"], strict=True)
        ):
            layer = str(i) if "inr" in dataset else "head" if i == depth - 1 else f"layers.{i}"
            spread = mean.var(unbiased=False)  # of the entries' own means
            theirs[f"{layer}.{name}"] = float((std.square().mean() + spread).sqrt())
    assert ours == pytest.approx(theirs, abs=6e-5)
