import json
import pathlib

import numpy as np
import published_files
import pytest

torch = pytest.importorskip("torch")

from probegen_jax.errors import UserError
from probegen_jax.zoo.prepared.builders import SKIPPED_FILE, Request
from probegen_jax.zoo.prepared.reading import read
from probegen_jax.zoo.published import loading

NUMBER = 200
TOPS = {"mnist_inr": "mnist-inrs", "fmnist_inr": "fmnist_inrs"}


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Official folders of both zoos, and what is in them."""
    root = tmp_path_factory.mktemp("official")
    networks = {
        "mnist_inr": published_files.mnist_inr(root, NUMBER),
        "fmnist_inr": published_files.fmnist_inr(root, NUMBER),
    }
    return root, networks


def check_equal(dataset: str, data_dir: pathlib.Path, networks: dict, parts: dict) -> None:
    """A prepared zoo holds exactly `parts`, bit for bit."""
    builder = loading.prepared(dataset, data_dir)
    columns, rows = read(builder)
    zoo = loading.load(dataset, data_dir)
    assert len(zoo) == sum(map(len, parts.values()))
    for split, names in parts.items():
        found = [columns["path"][row].decode() for row in rows[split]]
        assert sorted(found) == sorted(names)
        np.testing.assert_array_equal(zoo.splits[split], rows[split])
    for row, path in enumerate(columns["path"]):
        state, label = networks[path.decode()]
        assert zoo.targets_N[row] == label
        for index, layer in enumerate(zoo.weights):
            kernel, bias = (state[f"seq.{index}.{name}"].numpy() for name in ("weight", "bias"))
            assert layer["kernel"][row].T.tobytes() == kernel.tobytes()
            assert layer["bias"][row].tobytes() == bias.tobytes()


@pytest.mark.parametrize("dataset", TOPS)
def test_a_folder_with_a_seeded_split(dataset, official, tmp_path, capsys):
    root, networks = official
    loading.prepared(dataset, tmp_path, request=Request(manual_dir=root))
    assert "the split is seeded" in capsys.readouterr().out
    builder = loading.prepared(dataset, tmp_path)
    columns, rows = read(builder)
    test = {name for name in networks[dataset] if "test" in name}
    assert {columns["path"][row].decode() for row in rows["test"]} == test
    others = NUMBER - len(test)
    assert len(rows["val"]) == round(others * 5_000 / 60_000)
    parts = {s: [columns["path"][row].decode() for row in rows[s]] for s in rows}
    check_equal(dataset, tmp_path, networks[dataset], parts)


@pytest.mark.parametrize("dataset", TOPS)
@pytest.mark.parametrize("prefix", ["", "/home/someone/dataset/"])
def test_the_official_split_is_used_where_it_is(dataset, prefix, official, tmp_path, capsys):
    root, networks = official
    file = tmp_path / "splits.json"
    label = str if dataset == "mnist_inr" else int
    parts = published_files.inr_splits(file, networks[dataset], label, prefix)
    request = Request(manual_dir=root, splits_file=file)
    loading.prepared(dataset, tmp_path / "data", request=request)
    assert "the split is seeded" not in capsys.readouterr().out
    check_equal(dataset, tmp_path / "data", networks[dataset], parts)


def test_an_archive_is_read_in_place(official, tmp_path):
    root, networks = official
    manual = tmp_path / "manual"
    manual.mkdir()
    published_files.zipped(root, "fmnist_inrs", manual / "fmnist_inrs.zip")
    parts = published_files.inr_splits(manual / "fmnist_splits.json", networks["fmnist_inr"], int)
    loading.prepared("fmnist_inr", tmp_path / "data", request=Request(manual_dir=manual))
    check_equal("fmnist_inr", tmp_path / "data", networks["fmnist_inr"], parts)
    assert sorted(path.name for path in manual.iterdir()) == [
        "fmnist_inrs.zip",
        "fmnist_splits.json",
    ]


def test_golden_networks_prepare(shared, tmp_path):
    for index, file in enumerate(sorted(shared.glob("golden/inr_*/networks/*.pth"))):
        part = "testing" if index % 4 == 0 else "training"
        name = f"mnist-inrs/mnist_png_{part}_{index % 10}_{index}/checkpoints/model_final.pth"
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(file.read_bytes())
    zoo = loading.load("mnist_inr", tmp_path / "data", request=Request(manual_dir=tmp_path))
    assert len(zoo) == 16


def small(root: pathlib.Path) -> tuple[pathlib.Path, dict, str]:
    """A small FMNIST folder, its networks, and one of them to spoil."""
    networks = published_files.fmnist_inr(root, 30)
    return root, networks, "fmnist_inrs/train/model_3.pth"


def spoil_truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def spoil(**changes):
    def change(path):
        state = torch.load(path, weights_only=True)
        for key, value in changes.items():
            key = key.replace("_", ".")
            if value is None:
                del state[key]
            else:
                state[key] = value
        torch.save(state, path)

    return change


BAD = {
    "truncated": (spoil_truncate, "is truncated or damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is an empty file"),
    "key": (spoil(seq_1_bias=None), r"has no seq\.1\.bias"),
    "shape": (spoil(seq_1_bias=torch.zeros(7)), r"seq\.1\.bias has shape \(7,\)"),
    "nan": (spoil(seq_1_bias=torch.full((32,), torch.nan)), "holds NaN or infinite weights"),
    "inf": (spoil(seq_2_bias=torch.full((1,), torch.inf)), "holds NaN or infinite weights"),
    "label": (spoil(label=10), "its label is 10, outside 0 to 9"),
    "no label": (spoil(label=None), "stores no label"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_network_stops_and_leaves_nothing_or_is_skipped(case, tmp_path, capsys):
    root, networks, victim = small(tmp_path)
    change, fault = BAD[case]
    change(root / victim)
    data = tmp_path / "data"
    with pytest.raises(UserError, match=fault) as error:
        loading.load("fmnist_inr", data, request=Request(manual_dir=root))
    assert str(root / victim) in str(error.value)
    assert not list(data.rglob("*.array_record*"))
    assert not list(data.rglob("dataset_info.json"))

    request = Request(manual_dir=root, skip_bad=True)
    zoo = loading.load("fmnist_inr", data, request=request)
    assert len(zoo) == len(networks) - 1
    assert "1 bad networks were left out" in capsys.readouterr().out
    (listing,) = data.rglob(SKIPPED_FILE)
    assert listing.read_text().startswith(f"{root / victim}\t")
    # A later run that does not accept it is told, and nothing is silent for one that does.
    with pytest.raises(UserError, match="was prepared without 1 bad networks"):
        loading.load("fmnist_inr", data, request=Request(manual_dir=root))
    loading.load("fmnist_inr", data, request=request)
    assert "1 bad networks were left out" in capsys.readouterr().out


def test_a_split_naming_a_missing_file(tmp_path):
    root, networks, victim = small(tmp_path)
    published_files.inr_splits(root / "fmnist_splits.json", networks, int)
    (root / victim).unlink()
    with pytest.raises(UserError, match=r"model_3\.pth: is named in .*fmnist_splits\.json but mi"):
        loading.load("fmnist_inr", tmp_path / "data", request=Request(manual_dir=root))
    request = Request(manual_dir=root, skip_bad=True)
    assert len(loading.load("fmnist_inr", tmp_path / "data", request=request)) == 29


def test_a_label_outside_its_range_in_the_split(tmp_path):
    root, networks, _ = small(tmp_path)
    file = root / "fmnist_splits.json"
    published_files.inr_splits(file, networks, int)
    content = json.loads(file.read_text())
    content["train"]["label"][0] = -1
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="its label is -1, outside 0 to 9"):
        loading.load("fmnist_inr", tmp_path / "data", request=Request(manual_dir=root))


@pytest.mark.parametrize("prefix", ["", "/home/someone/"])
def test_the_same_file_in_two_splits(prefix, tmp_path):
    root, networks, _victim = small(tmp_path)
    file = root / "fmnist_splits.json"
    published_files.inr_splits(file, networks, int)
    content = json.loads(file.read_text())
    content["test"]["path"][0] = prefix + content["train"]["path"][0]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"is in 'train' and in 'test'; list each network once"):
        loading.load("fmnist_inr", tmp_path / "data", request=Request(manual_dir=root))


def test_an_empty_folder_says_what_belongs_there(tmp_path):
    with pytest.raises(UserError, match=r"no mnist_inr zoo here; it needs mnist-inrs/mnist_png"):
        loading.load("mnist_inr", tmp_path / "data", request=Request(manual_dir=tmp_path))
    (tmp_path / "mnist-inrs").mkdir()
    with pytest.raises(UserError, match="no networks for training found"):
        loading.load("mnist_inr", tmp_path / "data", request=Request(manual_dir=tmp_path))


def test_an_encrypted_archive_is_named(tmp_path):
    published_files.fmnist_inr(tmp_path, 20)
    path = published_files.zipped(tmp_path, "fmnist_inrs", tmp_path / "manual.zip")
    content = bytearray(path.read_bytes())
    entry = -1
    while (entry := content.find(b"PK\1\2", entry + 1)) >= 0:
        content[entry + 8] |= 1  # the flag in the entry's directory record
    manual = tmp_path / "manual"
    manual.mkdir()
    (manual / "fmnist_inrs.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be unpacked \(.* is encrypted.*\); delete"):
        loading.load("fmnist_inr", tmp_path / "data", request=Request(manual_dir=manual))


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "mnist-inrs.zip").write_bytes(b"PK\3\4 half of it")
    with pytest.raises(UserError, match=r"mnist-inrs\.zip: is not a complete zip archive"):
        loading.load("mnist_inr", tmp_path / "data", request=Request(manual_dir=tmp_path))
