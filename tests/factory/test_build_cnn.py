"""Building zoos of CNNs: the same bytes always, export and way back, and probing what was built."""

import contextlib
import filecmp
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPO

pytest.importorskip("torch")  # zoos are exported as torch files

import plain_torch

from probegen_jax import build_zoo
from probegen_jax.errors import UserError
from probegen_jax.factory.builtin import digits_cnn
from probegen_jax.factory.cnn import export, search_space, train_cnns
from probegen_jax.networks.cnn import cnn, published
from probegen_jax.networks.cnn.layer_table import ParkNetwork
from probegen_jax.zoo.prepared import build_folder as built_data
from probegen_jax.zoo.prepared import built_zoos
from probegen_jax.zoo.prepared.builders import Request
from probegen_jax.zoo.prepared.reading import read
from probegen_jax.zoo.published import loading

PARK = """
from ml_collections import ConfigDict
def get_space():
    return ConfigDict(dict(
        layers=(2, 3), channels=(4, 8), kernel=(1, 3), activation=("relu", "gelu", "sigmoid"),
        per_layer=("channels", "kernel", "activation"), residual=0.7,
        networks_per_architecture=6, optimizer=("adam", "sgd", "rmsprop"),
        learning_rate={"log_uniform": (1e-3, 3e-2)}, epochs=2, checkpoints=(0, 1),
        batch_size=32, train_images=200))
"""
SMALL = """
from ml_collections import ConfigDict
def get_space():
    return ConfigDict(dict(
        layers=3, channels=16, kernel=3, stride=2, padding="valid", activation=("relu", "tanh"),
        optimizer=("adam", "sgd", "rmsprop"), w_init=("he_normal", "orthogonal"),
        dropout={"uniform": (0.1, 0.5)}, epochs=2, batch_size=32, train_images=200))
"""


def command(folder, space, out, *extra):
    path = folder / "space.py"
    path.write_text(space)
    return [
        "build_zoo", "cnn", "--images=digits", "--num=24", f"--space={path}", f"--out={out}", *extra
    ]  # fmt: skip


@pytest.fixture(scope="module")
def park(tmp_path_factory):
    folder = tmp_path_factory.mktemp("park")
    build_zoo.main(command(folder, PARK, folder / "zoo", "--export=torch"))
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    extra = ("--resize=16", "--export=torch")
    build_zoo.main(command(folder, SMALL, folder / "zoo", *extra))
    return folder


def same_files(one: pathlib.Path, other: pathlib.Path) -> bool:
    names = sorted(
        path.relative_to(one) for path in one.rglob("*") if path.is_file() and path.name[0] != "."
    )
    others = sorted(
        path.relative_to(other)
        for path in other.rglob("*")
        if path.is_file() and path.name[0] != "."
    )
    assert names == others
    assert len(names) > 4
    return not filecmp.cmpfiles(one, other, names, shallow=False)[1]


@pytest.mark.slow
def test_killed_and_resumed_ends_with_the_same_bytes(park, tmp_path):
    arguments = command(tmp_path, PARK, tmp_path / "zoo", "--export=torch")
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    script = [sys.executable, "-m", "probegen_jax.build_zoo", *arguments[1:]]
    process = subprocess.Popen(script, env=environment, cwd=REPO)
    while process.poll() is None and not list(tmp_path.glob("zoo/parts/part-*")):
        time.sleep(0.02)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "zoo/built_zoo").exists()
    subprocess.run(script, env=environment, check=True, cwd=REPO)
    subprocess.run(
        [*script[:-2], f"--out={tmp_path / 'whole'}", "--export=torch"],
        env=environment, check=True, cwd=REPO,
    )  # fmt: skip
    assert same_files(tmp_path / "zoo", tmp_path / "whole")


def test_several_devices_make_the_same_networks():
    images = digits_cnn.digit_images()
    space = search_space.read("digits_cnn") | {"networks_per_architecture": 2, "steps": 3}
    made = []
    for devices in (None, jax.devices()[:2]):
        factory = train_cnns.CnnFactory(images, space, 4, 0, devices=devices)
        made.append([factory.make(part) for part in range(len(factory.parts))])
        factory.close()
    for one, other in zip(*made, strict=True):
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name])


@pytest.mark.slow
def test_processes_make_the_same_networks_and_one_that_dies_is_told_of():
    images = digits_cnn.digit_images()
    space = search_space.read("small_cnn_zoo") | {"padding": "same", "epochs": 1}
    made = []
    for processes in (False, True):
        factory = train_cnns.CnnFactory(images, space, 40, 0, processes=processes)
        with contextlib.closing(factory):
            made.append([factory.make(part) for part in range(len(factory.parts))])
    for one, other in zip(*made, strict=True):
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name])

    factory = train_cnns.CnnFactory(images, space, 40, 0, processes=True)
    with contextlib.closing(factory):
        factory.make(0)
        for child in multiprocessing.active_children():
            child.kill()
        with pytest.raises(UserError, match="a process that trains networks was killed"):
            for part in range(1, len(factory.parts)):
                factory.make(part)


@pytest.mark.slow
def test_processes_end_with_the_one_that_began_them(tmp_path):
    many = PARK.replace("epochs=2", "epochs=40")
    arguments = command(tmp_path, many, tmp_path / "zoo", "--num=100")[1:]
    script = [sys.executable, "-m", "probegen_jax.build_zoo", *arguments]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(script, env=environment, cwd=REPO)
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and not list(tmp_path.glob("zoo/parts/part-*")):
        time.sleep(0.1)
    begun = [int(pid) for pid in children.read_text().split()]
    assert len(begun) >= 2
    process.kill()
    process.wait()
    until = time.monotonic() + 20
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in begun) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [pid for pid in begun if pathlib.Path(f"/proc/{pid}").exists()]


def test_no_run_is_in_two_splits_and_all_are_there(park):
    zoo = built_zoos.load(park / "zoo", "cnn")
    runs = {name: set(zoo.runs_N[rows]) for name, rows in zoo.splits.items()}
    assert sum(map(len, runs.values())) == len(set.union(*runs.values())) == 24
    assert len(zoo) == 72
    assert zoo.targets_N.dtype == np.float32


def test_scores_are_those_of_the_stored_networks(park):
    builder = built_data.opened(park / "zoo")
    columns, _ = read(builder)
    factory_images = digits_test_images(builder)
    for n in (0, 30, 71):
        network = ParkNetwork(columns["layers"][n], columns["weights"][n], 10)
        spec = published.wild_park(network.config(), image_size=(8, 8))
        guesses = np.argmax(jax.jit(spec.apply)(network.arrays(), factory_images[0]), -1)
        right = np.mean(guesses == factory_images[1])
        assert right == pytest.approx(columns["score"][n], abs=1e-2)


def digits_test_images(builder):
    from probegen_jax.factory.images import sources

    test = sources.load("digits").test
    return sources.scaled(test.images) * np.float32(2) - np.float32(1), test.labels


def test_the_wild_park_layout_comes_back_bit_for_bit(park):
    torch = pytest.importorskip("torch")
    pytest.importorskip("omegaconf")
    ours = read(built_data.opened(park / "zoo"))
    builder = loading.prepared(
        "cifar10_wild_park", park / "data", request=Request(manual_dir=park / "zoo/torch")
    )
    assert builder.builder_config.name == "official"
    theirs = read(builder)

    def by_name(columns, names):
        return {
            name: (columns["weights"][n], columns["layers"][n], columns["score"][n])
            for n, name in enumerate(names)
        }

    own_names = [
        f"cifar10_zooV2/run_{run:05}/checkpoint_{step:06}/checkpoint.pt"
        for run, step in zip(ours[0]["run"], ours[0]["iteration"], strict=True)
    ]
    their_names = [path.decode() for path in theirs[0]["path"]]
    mine, back = by_name(ours[0], own_names), by_name(theirs[0], their_names)
    assert mine.keys() == back.keys()
    for name, arrays in mine.items():
        for one, other in zip(arrays, back[name], strict=True):
            np.testing.assert_array_equal(one, other)
    for split in ("train", "val", "test"):
        assert {own_names[n] for n in ours[1][split]} == {their_names[n] for n in theirs[1][split]}
    # Plain torch on a file of ours computes what our network does.
    images = np.random.default_rng(0).standard_normal((3, 8, 8, 1)).astype(np.float32)
    for n in (2, 50):
        loaded = torch.load(park / "zoo/torch" / own_names[n], weights_only=True)
        spec = published.wild_park(loaded["config"], image_size=(8, 8))
        model = plain_torch.PlainCnn(spec.layers, 10)
        model.load_state_dict(loaded["model"])
        with torch.no_grad():
            expected = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
        network = ParkNetwork(ours[0]["layers"][n], ours[0]["weights"][n], 10)
        answer = jax.jit(spec.apply)(network.arrays(), images)
        np.testing.assert_allclose(answer, expected, atol=1e-4)


def test_the_small_cnn_layout_comes_back_bit_for_bit(small):
    import ast
    import csv
    import gzip

    columns, _ = read(built_data.opened(small / "zoo"))
    folder = small / "zoo/torch"
    builder = loading.prepared("cifar10_gs", small / "data", request=Request(manual_dir=folder))
    theirs, _ = read(builder)
    run_of = {int(path.decode().split("run_")[1][:5]): n for n, path in enumerate(theirs["path"])}
    assert len(run_of) == len(columns["run"]) == 24
    weights = np.load(folder / "weights.npy")
    with gzip.open(folder / "metrics.csv.gz", "rt") as file:
        metrics = list(csv.DictReader(file))
    with (folder / "layout.csv").open() as file:
        layout = list(csv.DictReader(file))
    assert [row["varname"].split("/")[2] for row in layout[:2]] == ["bias:0", "kernel:0"]
    for n, run in enumerate(columns["run"]):
        other = run_of[int(run)]
        assert theirs["score"][other] == columns["score"][n]
        row = theirs["row"][other]
        assert metrics[row]["config.optimizer"] == columns["optimizer"][n].decode()
        assert np.float32(metrics[row]["config.dropout"]) == columns["dropout"][n]
        # As plain code reads the official files: bias and kernel by the layout.
        stored = ParkNetwork(columns["layers"][n], columns["weights"][n], 10).arrays()
        parts = {"conv2d": 0, "conv2d_1": 1, "conv2d_2": 2}
        for line in layout:
            _, name, kind = line["varname"].split("/")
            affine = stored["head"] if name == "dense" else stored["layers"][parts[name]]
            piece = weights[row, int(line["start_idx"]) : int(line["end_idx"])]
            expected = affine[kind.split(":")[0]]
            assert ast.literal_eval(line["shape"]) == expected.shape
            np.testing.assert_array_equal(piece.reshape(expected.shape), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "known"), [("mnist", True), ("letters", False)])
def test_an_export_of_a_published_parts_images_is_read_as_that_part(name, known, tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 28, 28), np.uint8)
    np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(300) % 10)
    arguments = command(tmp_path, SMALL, tmp_path / "zoo", "--export=torch")
    arguments[2] = f"--images={tmp_path / name}.npz"
    build_zoo.main(arguments)
    folder = tmp_path / "zoo/torch"
    config = "--config=configs/small_cnn_zoo.py:mnist " if known else ""
    assert f"read them with {config}--config.manual_dir={folder}\n" in capsys.readouterr().out
    data, request = tmp_path / "data", Request(manual_dir=folder)
    theirs = loading.load("mnist_gs", data, request=request)
    ours = built_zoos.load(tmp_path / "zoo", "cnn")
    assert theirs.spec.probe_shape == ours.spec.probe_shape == (28, 28, 1)
    probes = jax.random.normal(jax.random.key(0), (2, 28, 28, 1))
    mine, back = (
        np.asarray(zoo.spec.respond(zoo.spec.take(zoo.weights, jnp.arange(24)), probes))
        for zoo in (ours, theirs)
    )
    order = [np.argsort(each.sum((1, 2))) for each in (mine, back)]
    np.testing.assert_allclose(mine[order[0]], back[order[1]], atol=1e-6)
    np.testing.assert_array_equal(ours.targets_N[order[0]], theirs.targets_N[order[1]])


def test_a_zoo_of_one_architecture_is_loaded_as_such(small):
    zoo = built_zoos.load(small / "zoo", "cnn")
    assert isinstance(zoo.spec, cnn.CnnSpec)
    assert set(zoo.spec.activations) == {"relu", "tanh"}
    assert zoo.runs_N is None
    assert [layer.padding for layer in zoo.spec.layers] == [0, 0, 0]
    official = built_zoos.load(small / "zoo", "cnn", "official")
    assert [layer.padding for layer in official.spec.layers] == [1, 1, 1]
    assert export.is_small_cnn_zoo(read(built_data.opened(small / "zoo"))[0]["layers"])


def test_another_space_is_refused_by_what_differs(park):
    other = PARK.replace("epochs=2", "epochs=3")
    with pytest.raises(UserError, match=r"another zoo: space.epochs \(2 there, 3 here\)"):
        build_zoo.main(command(park, other, park / "zoo"))


def test_weights_that_are_not_finite_are_left_out(tmp_path, monkeypatch, capsys):
    def broken(self, part):
        arrays = honest(self, part)
        arrays["weights"] = arrays["weights"].copy()
        arrays["weights"][0, 1] = np.inf
        return arrays

    honest = train_cnns.CnnFactory.make
    monkeypatch.setattr(train_cnns.CnnFactory, "make", broken)
    build_zoo.main(command(tmp_path, PARK, tmp_path / "zoo"))
    assert "4 left out for weights that are not finite" in capsys.readouterr().out
    assert len(built_zoos.load(tmp_path / "zoo", "cnn")) == 68


def test_images_of_one_class_are_refused(tmp_path):
    np.savez(tmp_path / "one.npz", images=np.zeros((30, 8, 8), np.uint8), labels=np.zeros(30, int))
    arguments = command(tmp_path, PARK, tmp_path / "zoo")
    arguments[2] = f"--images={tmp_path / 'one.npz'}"
    with pytest.raises(UserError, match="one class; a zoo needs at least two"):
        build_zoo.main(arguments)
