import csv
import os
import pathlib

import numpy as np
import pytest

from probegen_jax.errors import UserError
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.zoo import flat_weights
from probegen_jax.zoo.files import inr_files, torch_files
from probegen_jax.zoo.own import files_and_targets, targets

SPEC = SirenSpec(hidden=(16, 24, 8), out_dim=3, output_shift=0.0, grid="ij")
NFN = ReadOptions("net.{}.linear", "net.{}")


def networks(number: int, spec: SirenSpec = SPEC) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((number, flat_weights.size(spec.abstract()))).astype(np.float32)


def state_of(vector: np.ndarray) -> dict[str, np.ndarray]:
    stacked = flat_weights.unflatten(vector[None], SPEC.abstract())
    one = tuple({name: leaf[0] for name, leaf in layer.items()} for layer in stacked)
    return inr_files.to_state(one, NFN)


def write_csv(path: pathlib.Path, rows: list[dict]) -> pathlib.Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def folder(tmp_path):
    """Thirty deeper RGB SIRENs with NFN's keys, as safetensors."""
    save = pytest.importorskip("safetensors.numpy").save_file
    (tmp_path / "zoo").mkdir()
    for index, vector in enumerate(networks(30)):
        state = {key: np.ascontiguousarray(array) for key, array in state_of(vector).items()}
        save(state, tmp_path / "zoo" / f"{index}.safetensors")
    return tmp_path / "zoo"


def rows(number=30, suffix="safetensors"):
    return [{"path": f"{i}.{suffix}", "target": i % 3} for i in range(number)]


def load(folder, listing, **options):
    options = {"task": "classification", "data_dir": folder.parent / "cache"} | options
    csv = write_csv(folder.parent / "targets.csv", listing)
    return files_and_targets.from_folder(folder, csv, SPEC, NFN, **options)


def test_a_folder_makes_the_same_zoo_as_arrays(folder, capsys):
    zoo = load(folder, rows())
    assert "split into train, val and test by our own seed 0" in capsys.readouterr().out
    arrays = files_and_targets.from_arrays(
        "zoo", SPEC, networks(30), np.arange(30) % 3, task="classification"
    )
    for ours, theirs in zip(zoo.weights, arrays.weights, strict=True):
        for name in ("kernel", "bias"):
            np.testing.assert_array_equal(ours[name], theirs[name])
    np.testing.assert_array_equal(zoo.targets_N, arrays.targets_N)
    assert (zoo.num_outputs, zoo.spec, zoo.task) == (3, SPEC, "classification")
    assert [len(zoo.splits[split]) for split in ("train", "val", "test")] == [21, 3, 6]


def test_torch_files_too(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "zoo").mkdir()
    for index, vector in enumerate(networks(30)):
        torch_files.save_inr(tmp_path / "zoo" / f"{index}.pth", state_of(vector), label=1)
    zoo = load(tmp_path / "zoo", rows(suffix="pth"))
    expected = flat_weights.unflatten(networks(30), SPEC.abstract())
    np.testing.assert_array_equal(zoo.weights[2]["kernel"], expected[2]["kernel"])


def test_the_csv_may_say_the_split_and_values(folder):
    listing = rows()
    for index, row in enumerate(listing):
        row["split"] = ("train", "val", "test")[index % 3]
        row["target"] = index / 10
    zoo = load(folder, listing, task="regression")
    np.testing.assert_array_equal(zoo.splits["val"], np.arange(1, 30, 3))
    np.testing.assert_array_equal(zoo.targets_N, np.arange(30, dtype=np.float32) / np.float32(10))
    assert zoo.num_outputs == 1


@pytest.mark.parametrize("keep_time", [False, True])
def test_the_arrays_are_kept_until_a_file_changes(keep_time, folder, monkeypatch):
    load(folder, rows())
    read = []
    monkeypatch.setattr(
        inr_files, "read", lambda *args, real=inr_files.read: read.append(args) or real(*args)
    )
    load(folder, rows())
    assert not read
    path = folder / "3.safetensors"
    before = path.stat()
    path.write_bytes((folder / "4.safetensors").read_bytes())
    if keep_time:  # as unpacking an archive does
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    zoo = load(folder, rows())
    assert len(read) == 30
    np.testing.assert_array_equal(zoo.weights[0]["bias"][3], zoo.weights[0]["bias"][4])


def test_bad_networks_are_skipped_only_when_asked(folder, capsys):
    (folder / "2.safetensors").write_bytes(b"")
    (folder / "5.safetensors").unlink()
    with pytest.raises(UserError, match=r"2\.safetensors: is not a readable safetensors file"):
        load(folder, rows())
    for _ in range(2):  # the second time from the cache
        zoo = load(folder, rows(), skip_bad=True)
        assert len(zoo) == 28
        assert zoo.targets_N[:5].tolist() == [0, 1, 0, 1, 0]
        assert "2 bad networks were left out" in capsys.readouterr().out
    (listing,) = (folder.parent / "cache").glob("*.skipped.tsv")
    assert [line.split("\t")[0] for line in listing.read_text().splitlines()] == [
        str(folder / "2.safetensors"),
        str(folder / "5.safetensors"),
    ]


BAD = {
    "column": ([{"path": "0.safetensors"}], "has no column 'target'"),
    "twice": ([*rows(3), rows(1)[0]], r"0\.safetensors is in line 2 and in line 5"),
    "class": (
        [{"path": "0.safetensors", "target": "cat"}],
        "target 'cat' of 0.safetensors is not a class number",
    ),
    "too big": ([{"path": "a", "target": 99999999999}], "target '99999999999' of a is not a class"),
    "no path": ([{"target": 1, "path": ""}], "line 2: '' is no path"),
    "negative": (
        [*rows(29), {"path": "29.safetensors", "target": -1}],
        "line 31: target '-1' of 29.*is not a class number from 0",
    ),
    "split": ([{"path": "a", "target": 1, "split": "dev"}], "split is 'dev'; use train, val, test"),
    "suffix": ([{"path": "a.npy", "target": 1}], r"a\.npy: is no network file; give \.pth"),
    "few": (rows(2), "2 networks or runs are too few"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_csv_is_told(case, folder):
    listing, fault = BAD[case]
    counted = {"num_outputs": 3} if "class" in fault else {}
    with pytest.raises(UserError, match=fault):
        load(folder, listing, **counted)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("path,target\n", "lists no networks"),
        ("target,path\n1,a\n1\n", "line 3: None is no path"),
        ("path,target\n\0,1\n", "line 2: .* is no path|cannot be read"),
    ],
)
def test_a_broken_csv_is_told(content, fault, tmp_path):
    (tmp_path / "targets.csv").write_text(content)
    with pytest.raises(UserError, match=rf"targets\.csv: ({fault})"):
        targets.read_csv(tmp_path / "targets.csv", "classification")


def test_a_missing_csv_is_told(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: cannot be read .*; give a CSV of targets"):
        targets.read_csv(tmp_path / "none.csv", "regression")


def arrays(**changes):
    given = {
        "weights": networks(20),
        "targets": np.arange(20) % 2,
        "task": "classification",
    } | changes
    return files_and_targets.from_arrays(
        "mine", SPEC, given.pop("weights"), given.pop("targets"), **given
    )


def test_given_rows_are_the_splits():
    zoo = arrays(splits_of={"train": range(10), "val": [12], "test": [11, 10]})
    assert zoo.splits["test"].tolist() == [11, 10]


BAD_ARRAYS = {
    "width": ({"weights": np.zeros((20, 7), np.float32)}, "networks hold 7 weights"),
    "number": ({"targets": np.arange(19) % 2}, "one row per target"),
    "tree": ({"weights": (np.zeros((20, 3)),)}, "the spec says"),
    "nan": ({"weights": np.full_like(networks(20), np.nan)}, "holds NaN or infinite weights"),
    "class": ({"num_outputs": 2, "targets": np.arange(20) % 3}, "target 2 is class 2, outside 0"),
    "floats": ({"targets": np.arange(20) / 2}, "classes are whole numbers"),
    "one class": ({"targets": np.zeros(20, int)}, "one class only"),
    "value": (
        {"task": "regression", "targets": np.full(20, np.inf)},
        "target 0 is not finite",
    ),
    "row": (
        {"splits_of": {"train": [0], "val": [1], "test": [20]}},
        "split 'test' names a row outside 0 to 19",
    ),
    "twice": (
        {"splits_of": {"train": [0, 1], "val": [1], "test": [2]}},
        "network 1 is in 'val' and in another split",
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_told(case):
    changes, fault = BAD_ARRAYS[case]
    with pytest.raises(UserError, match=fault):
        arrays(**changes)
