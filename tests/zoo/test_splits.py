import gzip
import itertools
import json

import numpy as np
import pytest

from probegen_jax.errors import UserError
from probegen_jax.zoo import splits


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def split_json(**parts):
    return {
        name: {"path": parts.get(name, [f"{name}.pth"]), "label": ["1"] * len(parts.get(name, "x"))}
        for name in splits.SPLITS
    }


def test_json_is_read_with_its_targets(tmp_path):
    content = split_json(train=["a", "b"])
    read = splits.read_json(write(tmp_path / "s.json", content), "label")
    assert read == {
        "train": [("a", "1"), ("b", "1")],
        "val": [("val.pth", "1")],
        "test": [("test.pth", "1")],
    }


def test_the_published_json_is_read(shared):
    path = splits.find_file(shared / "data" / "splits", "fmnist_splits.json")
    read = splits.read_json(path, "label")
    assert {split: len(items) for split, items in read.items()} == {
        "train": 55_000,
        "val": 5_000,
        "test": 10_000,
    }
    assert read["train"][0] == ("fmnist_inrs/train/model_20814.pth", 6)


BAD = {
    "not json": ("{", "is not JSON"),
    "no val": ({"train": {"path": [], "label": []}}, "split 'val' lacks 'path' or 'label'"),
    "list": ([1], "split 'train' lacks"),
    "no list": (
        {"train": {"path": 5, "label": [1]}, "val": {}, "test": {}},
        "'path' of 'train' is not a list",
    ),
    "no name": (split_json(train=[["a"]]), r"'train' has \['a'\] for a path"),
    "no label": (
        {"train": {"path": ["a"], "label": [None]}, "val": {}, "test": {}},
        "'train' has None for a label",
    ),
    "lengths": (
        {"train": {"path": ["a"], "label": []}, "val": {}, "test": {}},
        "'train' has 1 paths and 0 labels",
    ),
    "two splits": (split_json(train=["a"], test=["a"]), "a is in 'train' and in 'test'"),
    "twice": (split_json(train=["a", "a"]), "a is twice in 'train'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_json_is_named_with_its_fault(case, tmp_path):
    content, fault = BAD[case]
    path = write(tmp_path / "s.json", content)
    with pytest.raises(UserError, match=fault) as error:
        splits.read_json(path, "label")
    assert str(path) in str(error.value)


def test_a_truncated_gzip_is_named(tmp_path):
    path = tmp_path / "s.json.gz"
    path.write_bytes(gzip.compress(b"{}" * 1000)[:-10])
    with pytest.raises(UserError, match=r"s\.json\.gz: cannot be read"):
        splits.read_json(path, "label")


def test_runs_on_both_sides_are_refused(tmp_path):
    parts = {"train": ["r0/a", "r1/a"], "val": ["r1/b"], "test": ["r2/a"]}
    with pytest.raises(UserError, match="checkpoints of r1 are in 'train' and in 'val'"):
        splits.check_runs(tmp_path, parts, lambda name: name.split("/")[0])


def test_a_seeded_split_has_the_shares_and_does_not_change():
    parts = splits.seeded(range(2800), splits.PARK_VAL_SHARE, splits.PARK_TEST_SHARE)
    assert {split: len(items) for split, items in parts.items()} == {
        "train": 2725,
        "val": 25,
        "test": 50,
    }
    assert sorted(itertools.chain(*parts.values())) == list(range(2800))
    assert parts == splits.seeded(range(2800), splits.PARK_VAL_SHARE, splits.PARK_TEST_SHARE)
    assert parts != splits.seeded(range(2800), splits.PARK_VAL_SHARE, splits.PARK_TEST_SHARE, 1)


def test_no_test_share_leaves_test_empty():
    parts = splits.seeded("abcdefghijkl", splits.INR_VAL_SHARE, 0.0)
    assert len(parts["val"]) == 1
    assert parts["test"] == []


def test_too_few_are_refused():
    with pytest.raises(UserError, match="2 networks or runs are too few"):
        splits.seeded([1, 2], 0.1, 0.1)


def test_nfn_order_official_and_faithful(tmp_path):
    path = write(tmp_path / "s.csv", "0\n3\n0\n2\n1\n")
    assert splits.read_nfn_order(path, faithful=False, number=4) == [0, 3, 0, 2, 1]
    assert splits.read_nfn_order(path, faithful=True, number=4) == [3, 0, 2, 1]
    clean = write(tmp_path / "t.csv", "3\n0\n")
    assert splits.read_nfn_order(clean, faithful=True, number=4) == [3, 0]


def test_the_published_nfn_order(shared):
    path = splits.find_file(shared / "data" / "splits", "nfn_cifar10_split.csv")
    official = splits.read_nfn_order(path, faithful=False, number=270_000)
    faithful = splits.read_nfn_order(path, faithful=True, number=270_000)
    assert len(official) == 270_001
    np.testing.assert_array_equal(np.sort(faithful), np.arange(270_000))
    parts = splits.nfn(faithful[:30_000])
    assert [len(parts[split]) for split in splits.SPLITS] == [12_000, 3_000, 15_000]


@pytest.mark.parametrize(
    ("content", "fault"),
    [("a\nb\n", "is not a list of row numbers"), ("1\n1\n", "lists row 1"), ("9\n", "has 4 rows")],
)
def test_a_bad_order_is_named_with_its_fault(content, fault, tmp_path):
    path = write(tmp_path / "s.csv", content)
    with pytest.raises(UserError, match=fault) as error:
        splits.read_nfn_order(path, faithful=True, number=4)
    assert str(path) in str(error.value)
