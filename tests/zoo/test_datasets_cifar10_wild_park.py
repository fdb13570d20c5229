import functools
import json

import jax
import numpy as np
import published_files
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("omegaconf")

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.networks.cnn import layer_table
from probegen_jax.zoo.files import torch_files
from probegen_jax.zoo.prepared import reading
from probegen_jax.zoo.prepared.builders import Request
from probegen_jax.zoo.prepared.reading import read
from probegen_jax.zoo.published import loading
from probegen_jax.zoo.published.cifar10_wild_park import run_of
from probegen_jax.zoo.zoo import Stored


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """An official folder of 60 checkpoints with OmegaConf configs, and what is in it."""
    root = tmp_path_factory.mktemp("park")
    return root, published_files.cifar10_wild_park(root)


def write_splits(path, networks):
    """Splits by run; scores in the file differ from those in the checkpoints, to tell which."""
    parts = {"train": [], "val": [], "test": []}
    for name in networks:
        run = int(run_of(name).removeprefix("run_"))
        parts["val" if run in (3, 4) else "test" if run in (7, 8) else "train"].append(name)
    content = {
        split: {
            "path": names,
            "score": [networks[name]["last_result"]["test/acc"] / 2 for name in names],
            "step": [networks[name]["iteration"] for name in names],
        }
        for split, names in parts.items()
    }
    path.write_text(json.dumps(content))
    return parts


def check_equal(columns, networks, score):
    for index, path in enumerate(columns["path"]):
        given = networks[path.decode()]
        network = layer_table.ParkNetwork(
            columns["layers"][index], columns["weights"][index], int(columns["num_classes"][index])
        )
        assert network.config() == given["config"]
        arrays = network.arrays()
        for i, layer in enumerate(arrays["layers"]):
            kernel = given["model"][f"layers.{i}.weight"].numpy()
            np.testing.assert_array_equal(layer["kernel"].transpose(3, 2, 0, 1), kernel)
            np.testing.assert_array_equal(layer["bias"], given["model"][f"layers.{i}.bias"].numpy())
        head = arrays["head"]
        np.testing.assert_array_equal(head["kernel"].T, given["model"]["fc.weight"].numpy())
        np.testing.assert_array_equal(head["bias"], given["model"]["fc.bias"].numpy())
        assert columns["score"][index] == np.float32(score(given))
        assert columns["iteration"][index] == given["iteration"]
        assert columns["run"][index].decode() == run_of(path.decode())


@pytest.mark.parametrize("archive", [False, True])
def test_sixty_checkpoints_with_a_seeded_split_by_run(official, archive, tmp_path):
    root, networks = official
    if archive:
        published_files.zipped(root, "cifar10_zooV2", tmp_path / "cnn_wild_park.zip")
        root = tmp_path
    builder = loading.prepared(
        "cifar10_wild_park", tmp_path / "data", request=Request(manual_dir=root)
    )
    columns, rows = read(builder)
    assert len(columns["path"]) == 60
    depths = {len(layers) for layers in columns["layers"]}
    assert depths == {2, 3, 4, 5}
    check_equal(columns, networks, lambda given: given["last_result"]["test/acc"])
    runs = {split: {columns["run"][row] for row in part} for split, part in rows.items()}
    assert len(runs["val"]) == len(runs["test"]) == 1
    assert sum(map(len, runs.values())) == 20


def test_the_official_split(official, tmp_path):
    root, networks = official
    file = tmp_path / "cnn_park_splits.json"
    parts = write_splits(file, networks)
    request = Request(manual_dir=root, splits_file=file)
    builder = loading.prepared("cifar10_wild_park", tmp_path / "data", request=request)
    columns, rows = read(builder)
    check_equal(columns, networks, lambda given: given["last_result"]["test/acc"] / 2)
    for split, names in parts.items():
        assert sorted(columns["path"][row].decode() for row in rows[split]) == sorted(names)


def test_a_run_on_both_sides_is_refused(official, tmp_path):
    root, networks = official
    file = tmp_path / "cnn_park_splits.json"
    write_splits(file, networks)
    content = json.loads(file.read_text())
    for key in ("path", "score"):
        content["val"][key].append(content["train"][key].pop())
    file.write_text(json.dumps(content))
    request = Request(manual_dir=root, splits_file=file)
    with pytest.raises(UserError, match="checkpoints of run_00019 are in 'train' and in 'val'"):
        loading.prepared("cifar10_wild_park", tmp_path / "data", request=request)


def test_genuine_and_golden_checkpoints(shared):
    files = [
        *(shared / "data" / "wild_park_format").glob("*/*/*.pt"),
        *shared.glob("golden/cifar10_wild_park_*/networks/*.pth"),
    ]
    assert len(files) == 18
    for file in files:
        loaded = torch_files.load_cnn(file, file.name)
        network = layer_table.from_torch(loaded.state, loaded.config, file.name)
        assert network.config() == loaded.config
        assert network.weights.size == sum(array.size for array in loaded.state.values())


def config(**changes):
    def change(state, config):
        config.update(changes)

    return change


BAD = {
    "key": (lambda s, c: s.pop("layers.1.bias"), r"has no layers\.1\.bias"),
    "extra": (lambda s, c: s.update({"bn.weight": s["fc.bias"]}), r"has bn\.weight"),
    "shape": (
        lambda s, c: s.update({"fc.bias": np.zeros(7, np.float32)}),
        r"fc\.bias has shape \(7,\), its config says \(10,\)",
    ),
    "nan": (lambda s, c: s["fc.bias"].fill(np.nan), r"fc\.bias holds NaN"),
    "channels": (config(channels="${x}"), r"channels are '\$\{x\}', not a list"),
    "kernels": (config(kernel_size=[3]), r"kernel_size is \[3\], not a list of 2"),
    "activation": (config(activation=["relu", "eval"]), "its activation 'eval' is unknown"),
    "float": (config(stride=[1, 1.5]), "something else than whole numbers"),
    "huge": (config(stride=[1, 2**40]), "its config holds a size above 65536"),
    "padding": (config(padding=[1, -1]), "negative padding"),
    "residual": (config(residual=[-1, 1]), r"residual links \[-1, 1\] do not lead to earlier"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_network_is_named_with_its_fault(case):
    change, fault = BAD[case]
    rng = np.random.default_rng(0)
    shapes = {
        "layers.0.weight": (4, 3, 3, 3),
        "layers.0.bias": (4,),
        "layers.1.weight": (8, 4, 3, 3),
        "layers.1.bias": (8,),
        "fc.weight": (10, 8),
        "fc.bias": (10,),
    }
    state = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    plain = {
        "n_classes": 10,
        "channels": [3, 4, 8],
        "kernel_size": [3, 3],
        "stride": [1, 1],
        "padding": [1, 1],
        "activation": ["relu", "tanh"],
    }
    network = layer_table.from_torch(state, plain, "a.pt")
    assert network.config()["residual"] == [-1, -1]
    change(state, plain)
    with pytest.raises(BadNetworkError, match=f"^a.pt: .*{fault}"):
        layer_table.from_torch(state, plain, "a.pt")


def test_a_bad_checkpoint_is_skipped_only_when_asked(tmp_path):
    networks = published_files.cifar10_wild_park(tmp_path, runs=4, checkpoints=2)
    victim = next(iter(networks))
    (tmp_path / victim).write_bytes((tmp_path / victim).read_bytes()[:5000])
    with pytest.raises(UserError, match=rf"{victim}: is truncated or damaged"):
        loading.prepared(
            "cifar10_wild_park", tmp_path / "data", request=Request(manual_dir=tmp_path)
        )
    request = Request(manual_dir=tmp_path, skip_bad=True)
    builder = loading.prepared("cifar10_wild_park", tmp_path / "data", request=request)
    assert len(read(builder)[0]["path"]) == 7


def test_a_score_outside_its_range(tmp_path):
    networks = published_files.cifar10_wild_park(tmp_path, runs=3, checkpoints=1)
    victim = tmp_path / next(iter(networks))
    loaded = torch_files.load_cnn(victim, "x")
    torch_files.save_cnn(victim, torch_files.CnnFile(loaded.state, loaded.config, 71.0, 1))
    with pytest.raises(UserError, match=r"its test accuracy is 71\.0, outside 0 to 1"):
        loading.prepared(
            "cifar10_wild_park", tmp_path / "data", request=Request(manual_dir=tmp_path)
        )


def test_a_zoo_too_large_for_the_memory_stays_on_the_disk(official, tmp_path, monkeypatch):
    root, _ = official
    load = functools.partial(loading.load, "cifar10_wild_park", tmp_path, split="seeded")
    small = load(request=Request(manual_dir=root))
    assert not isinstance(small.weights, Stored)
    monkeypatch.setattr(reading, "_memory", lambda: 1)
    large = load()
    assert isinstance(large.weights, Stored)
    monkeypatch.setattr(reading, "_read", None)  # not again
    again = load()
    assert large.spec == again.spec == small.spec
    np.testing.assert_array_equal(again.targets_N, small.targets_N)
    np.testing.assert_array_equal(again.costs(), small.costs())
    rows = [np.array([7, 3, 7]), np.array([59, 0, 1])]
    for zoo in (large, again):
        found, expected = (each.shard(rows, lambda most: most + 2) for each in (zoo, small))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert "60 networks" in large.describe()
    (tmp_path / "cifar10_wild_park/seeded/1.0.0/columns/weights.bin").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        load()
