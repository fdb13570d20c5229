"""The benchmarks run and count right; what they measure is no test's business."""

import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import REPO

pytest.importorskip("torch")

from benchmarks import cases, large, tables
from probegen_jax.errors import UserError
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.resnet.resnet import ResNetSpec
from probegen_jax.zoo.own import families
from probegen_jax.zoo.own.networks import read


def test_needed_operations_are_those_of_the_layers():
    inr = cases.make("mnist_inr", 32, 4)
    assert (inr.flops_N == 4 * (2 * 32 + 32 * 32 + 32 * 1)).all() and len(inr.flops_N) == 96
    convolutions = 16 * 16 * 9 * 16 + 8 * 8 * 9 * 16 * 16 + 4 * 4 * 9 * 16 * 16
    gs = cases.make("cifar10_gs", 32, 4)
    assert (gs.flops_N == 4 * (convolutions + 16 * 10)).all()
    park = cases.make("wild_park", 1, 4)
    assert 1 <= park.done < 1.5 and (park.flops_N > 1e6).all()


def test_naive_networks_compute_the_same():
    zoo = cases.make("cifar10_gs", 32, 4).zoo
    naive = cases.naive(zoo)
    weights = zoo.read(np.arange(2))
    probes = jax.random.normal(jax.random.key(0), (3, *zoo.spec.probe_shape))
    np.testing.assert_allclose(
        naive.spec.respond(weights, probes), zoo.spec.respond(weights, probes), atol=1e-4
    )


def test_sparse_files_are_the_networks_that_they_say(tmp_path):
    spec = ResNetSpec((4, 8), (1, 2), stem_width=4, image_shape=(8, 8, 3))
    for n in range(2):
        large.write_sparse(tmp_path / f"{n}.safetensors", large.torchvision_shapes(spec))
    found = families.find(tmp_path / "0.safetensors", ReadOptions(), {"image_size": 8})
    assert found == spec
    network = read(spec, tmp_path / "1.safetensors", "1", ReadOptions())
    assert not any(leaf.any() for leaf in jax.tree.leaves(network))


def test_tables_say_how_many_times_longer_than_ours():
    seconds = {"median": 0.002, "min": 0.001, "max": 0.003}
    found = {
        "device": "1 × cpu",
        "probing": {"ours": seconds},
        "step": {"ours": seconds, "loop": dict.fromkeys(seconds, 0.02)},
        "epoch": {"ours": seconds},
        "facts": {"ours": {"compile_s": 3.0}, "probing ours": {"xla_bytes": 8e6}},
        "gflops_needed": 1.0,
        "gflops_per_s": 50.0,
        "share_of_peak": 0.25,
        "gemm_peak_gflops_per_s": 200.0,
        "arithmetic_done_over_needed": 1.0,
        "scaling": {"num_seeds": {1: 0.002}},
    }
    machine = dict.fromkeys(("date", "cores", "cpu", "python", "jax", "torch"), "?")
    results = {"machine": machine | {"load_at_start": 0.0}, "probes": 128, "cases": {"x": found}}
    text = tables.markdown(results)
    assert "| a training step | PyTorch loop | 20 ms (20 ms to 20 ms) | 10.00 |  |" in text
    assert "25% of the measured GEMM peak (200)" in text and "1: 2 ms" in text


@pytest.mark.slow
def test_all_sides_run(tmp_path):
    command = [sys.executable, "-m", "benchmarks.run", "--case=mnist_inr", "--probes=8"]
    options = ["--rounds=1", "--noscaling", f"--out={tmp_path}"]
    subprocess.run([*command, *options], cwd=REPO, check=True)
    found = json.loads((tmp_path / "results.json").read_text())["cases"]["mnist_inr"]
    pytorch = {"loop", "lean", "compile", "vmap"}
    assert set(found["step"]) == {"ours", "seeds3", "hidden", "hidden3", "naive", *pytorch}
    assert all(each["min"] > 0 for each in found["step"].values())
    assert all(peak > 0.1 for peak in found["peak_gb"].values())
    assert (tmp_path / "results.png").stat().st_size > 10_000


def gpu_benchmark():
    spec = importlib.util.spec_from_file_location("gpu", REPO / "scripts" / "gpu_benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_made_images_tell_their_classes_apart():
    made = gpu_benchmark().make_images(700)
    assert made["x_train"].shape == (600, 28, 28) and made["x_test"].shape == (100, 28, 28)
    train, test = (made[name].reshape(-1, 784).astype(float) for name in ("x_train", "x_test"))
    means = np.stack([train[made["y_train"] == label].mean(axis=0) for label in range(10)])
    nearest = np.square(test[:, None] - means[None]).sum(axis=2).argmin(axis=1)
    assert (nearest == made["y_test"]).mean() > 0.9


def test_the_gpu_benchmark_refuses_a_machine_without_one(tmp_path):
    done = subprocess.run(
        [sys.executable, REPO / "scripts" / "gpu_benchmark.py", f"--out={tmp_path / 'out'}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "jax sees no GPU" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_gpu_benchmark_goes_on_where_it_was(tmp_path):
    sizes = ["--networks=210", "--epochs=1", "--probes=8", "--case=mnist_inr", "--rounds=1"]
    script = REPO / "scripts" / "gpu_benchmark.py"
    command = [sys.executable, script, f"--out={tmp_path}", "--any_device", *sizes]
    subprocess.run([*command, "--minutes=0.5"], check=True)
    first = json.loads((tmp_path / "summary.json").read_text())
    assert "benchmarks" not in first["done"]
    subprocess.run([*command, "--minutes=6"], check=True)  # its last stage may take longer
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["done"][:3] == ["steps", "fitting", "training"]
    assert set(found["steps"]["mnist_inr"]) == {"ours", "loop", "compile", "vmap"}
    assert found["training"]["steps"] == 6


def test_quick_steps_go_on_after_the_last_one_written(tmp_path, monkeypatch):
    from benchmarks import quick

    asked = []

    def child(name, left, options):
        asked.append((name, tuple(left)))
        for side in left:
            if side == "vmap" and len(asked) == 1:
                yield {"error": "exit code 1"}
                return
            seconds = {"median": 0.002, "min": 0.001, "max": 0.003}
            yield {"device": "1 × cpu", "step": {side: seconds}, "facts": {side: {}}}
        yield {"error": None}

    monkeypatch.setattr(quick, "_child", child)
    command = ["quick", "--case=mnist_inr", f"--out={tmp_path}"]
    quick.main(command)
    table = (tmp_path / "results.md").read_text()
    assert "failed: exit code 1" in table and "PyTorch loop | 2 ms" in table
    quick.main(command)
    quick.main(command)
    assert asked == [("mnist_inr", ("ours", "loop", "compile", "vmap")), ("mnist_inr", ("vmap",))]
    assert "failed" not in (tmp_path / "results.md").read_text()
    with pytest.raises(UserError, match="another machine or number of probes"):
        quick.main([*command, "--probes=8"])
