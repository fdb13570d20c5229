"""NFN's INR zoos, in files as they are published: read bit for bit, split as NFN's code does."""

import gzip
import os

import jax
import jax.numpy as jnp
import numpy as np
import published_files
import pytest
from conftest import REPO

torch = pytest.importorskip("torch")

import probegen_jax
from probegen_jax import settings, train
from probegen_jax.errors import UserError
from probegen_jax.runs.zoo_from_config import from_config
from probegen_jax.zoo.prepared.builders import Request
from probegen_jax.zoo.prepared.reading import read
from probegen_jax.zoo.published import loading, nfn

TOPS = {
    "cifar10_inr": ("siren_cifar_wts", 3),
    "nfn_mnist_inr": ("siren_mnist_wts", 1),
    "nfn_fmnist_inr": ("siren_fashion_wts", 1),
}
CONFIGS = {
    "cifar10_inr": "cifar10_inr.py:vanilla,16",
    "nfn_mnist_inr": "nfn_mnist.py:vanilla,16",
    "nfn_fmnist_inr": "nfn_fmnist.py:vanilla,16",
}
IMAGES = {"train": [0, 7, 23, 44_999], "val": [45_000, 49_999], "test": [50_000, 59_999]}
NUMBERS = [image for part in IMAGES.values() for image in part]


def check_equal(zoo, columns, networks):
    """Each network holds its file's bits, under its own label."""
    for row, path in enumerate(columns["path"]):
        state, label = networks[path.decode()]
        assert zoo.targets_N[row] == label
        for layer, name in zip(zoo.weights, published_files.NFN, strict=True):
            kernel, bias = (state[f"{name}.{array}"].numpy() for array in ("weight", "bias"))
            assert layer["kernel"][row].T.tobytes() == kernel.tobytes()
            assert layer["bias"][row].tobytes() == bias.tobytes()


@pytest.mark.parametrize("dataset", TOPS)
def test_each_is_read_bit_for_bit_and_split_by_number(dataset, tmp_path, monkeypatch, capsys):
    top, channels = TOPS[dataset]
    networks = published_files.nfn_inr(tmp_path, top, NUMBERS, channels, copies=1)
    monkeypatch.chdir(tmp_path)
    file = f"--config={REPO}/configs/{CONFIGS[dataset]}"
    places = [f"--config.manual_dir={tmp_path}", "--config.data_dir=data"]
    config = settings.parse(["x", file, *places], "").config
    assert (config.dataset, config.method, config.num_probes) == (dataset, "vanilla", 16)
    zoo = from_config(config)
    assert "seeded" not in capsys.readouterr().out
    columns, rows = read(loading.prepared(dataset, tmp_path / "data"))
    for split, numbers in IMAGES.items():
        names = {nfn.name_of(top, image % 10, image, 0) for image in numbers}
        assert {columns["path"][row].decode() for row in rows[split]} == names
        np.testing.assert_array_equal(zoo.splits[split], rows[split])
    check_equal(zoo, columns, networks)


def test_the_archive_is_read_where_it_is(tmp_path):
    networks = published_files.nfn_inr(tmp_path, "siren_cifar_wts", NUMBERS, 3)
    whole = published_files.tarred(tmp_path, "siren_cifar_wts", tmp_path / "made.tar").read_bytes()
    path = tmp_path / "downloads" / "siren_cifar_wts.tar"
    path.parent.mkdir()
    request = Request(manual_dir=path.parent)
    for content in (whole[: len(whole) // 2], gzip.compress(whole), b"<html>"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"siren_cifar_wts\.tar: is not a complete tar archive"):
            loading.load("cifar10_inr", tmp_path / "data", request=request)
    path.write_bytes(whole)
    zoo = loading.load("cifar10_inr", tmp_path / "data", request=request)
    columns, _ = read(loading.prepared("cifar10_inr", tmp_path / "data"))
    check_equal(zoo, columns, networks)
    assert os.listdir(path.parent) == ["siren_cifar_wts.tar"]


def test_further_networks_of_training_images_are_for_training(tmp_path):
    networks = published_files.nfn_inr(tmp_path, "siren_cifar_wts", NUMBERS, 3, copies=2)
    request = Request(manual_dir=tmp_path)
    zoo = loading.load("cifar10_inr", tmp_path / "data", split="augmented", request=request)
    assert {split: len(rows) for split, rows in zoo.splits.items()} == {
        "train": 12,
        "val": 2,
        "test": 2,
    }
    builder = loading.prepared("cifar10_inr", tmp_path / "data", split="augmented")
    columns, rows = read(builder)
    check_equal(zoo, columns, networks)
    assert not any(b"_aug" in columns["path"][row] for row in rows["test"])


def test_networks_answer_as_nfns_module(tmp_path):
    """The published module: sines of 30 times a linear layer, twice, then a linear layer."""
    networks = published_files.nfn_inr(tmp_path, "siren_cifar_wts", NUMBERS, 3)
    zoo = loading.load("cifar10_inr", tmp_path / "data", request=Request(manual_dir=tmp_path))
    columns, _ = read(loading.prepared("cifar10_inr", tmp_path / "data"))
    # As NFN's code makes the coordinates of pixels.
    sides = [torch.linspace(-1, 1, steps=32)] * 2
    points = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).reshape(-1, 2)
    np.testing.assert_allclose(zoo.spec.pixel_coordinates(32, 32), points, atol=1e-7)
    row = zoo.splits["test"][0]
    state, _ = networks[columns["path"][row].decode()]
    # Random weights are large; a tenth of them is as of a network that was fitted.
    state = {name: array / 10 for name, array in state.items()}
    weights = jax.tree.map(lambda leaf: leaf[row] / np.float32(10), zoo.weights)
    values = points
    for layer in published_files.NFN[:2]:
        values = 30 * (values @ state[f"{layer}.weight"].T + state[f"{layer}.bias"])
        values = torch.sin(values)
    values = values @ state["net.2.weight"].T + state["net.2.bias"]
    ours = zoo.spec.apply(weights, jnp.asarray(zoo.spec.pixel_coordinates(32, 32)))
    np.testing.assert_allclose(ours, values, atol=1e-4)
    drawn = zoo.spec.render(jax.tree.map(lambda leaf: leaf[None], weights), 32, 32)[0]
    expected = np.clip((values.numpy().reshape(32, 32, 3) + 1) / 2, 0, 1)
    np.testing.assert_allclose(drawn, expected, atol=1e-4)


@pytest.mark.slow
def test_a_run_predicts_for_nfns_files(tmp_path):
    published_files.nfn_inr(tmp_path, "siren_cifar_wts", NUMBERS, 3)
    flags = ["num_epochs=1", "batch_size=2", "head_width=4", "head_depth=2", "report=False"]
    flags += [f"manual_dir={tmp_path}", f"data_dir={tmp_path / 'data'}"]
    folder = tmp_path / "run"
    config = f"--config={REPO}/configs/cifar10_inr.py:4"
    train.main(["x", config, *(f"--config.{flag}" for flag in flags), f"--workdir={folder}"])
    predictor = probegen_jax.load(folder)
    columns, rows = read(loading.prepared("cifar10_inr", tmp_path / "data"))
    files = [str(tmp_path / columns["path"][row].decode()) for row in rows["test"]]
    found = predictor.predict(files)
    assert found.faults == [None, None]
    zoo = loading.load("cifar10_inr", tmp_path / "data")
    expected = predictor.predict_rows(zoo, rows["test"])
    np.testing.assert_allclose(found.values, expected.values, atol=1e-6)


BAD = {
    "an image twice": "net7.pth and siren_cifar_wts/randinit_smaller_8s/net7.pth are of one image",
    "no test images": "no networks for 'test' in",
    "another layer": "has no net.1.linear.weight",
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_told(case, tmp_path):
    images = NUMBERS[:-2] if case == "no test images" else NUMBERS
    published_files.nfn_inr(tmp_path, "siren_cifar_wts", images, 3)
    folder = tmp_path / "siren_cifar_wts"
    if case == "an image twice":
        (folder / "randinit_smaller_8s").mkdir()
        first = folder / "randinit_smaller_7s" / "net7.pth"
        (folder / "randinit_smaller_8s" / "net7.pth").write_bytes(first.read_bytes())
    if case == "another layer":
        path = folder / "randinit_smaller_3s" / "net23.pth"
        state = torch.load(path)
        state["net.1.weight"] = state.pop("net.1.linear.weight")
        torch.save(state, path)
    with pytest.raises(UserError, match=BAD[case]):
        loading.load("cifar10_inr", tmp_path / "data", request=Request(manual_dir=tmp_path))


@pytest.mark.parametrize("dataset", TOPS)
def test_where_to_fetch_it_is_told(dataset, tmp_path):
    with pytest.raises(UserError, match=f"fetch {TOPS[dataset][0]}.tar from https://drive.google"):
        loading.load(dataset, tmp_path)
    with pytest.raises(UserError, match=f"no {dataset} zoo here; it needs {TOPS[dataset][0]}/rand"):
        loading.load(dataset, tmp_path, request=Request(manual_dir=tmp_path))
