import gzip
import itertools
import mmap

import numpy as np
import published_files
import pytest

from probegen_jax.errors import UserError
from probegen_jax.zoo import splits
from probegen_jax.zoo.files import small_cnn_files
from probegen_jax.zoo.prepared import reading
from probegen_jax.zoo.prepared.builders import Request
from probegen_jax.zoo.prepared.reading import read
from probegen_jax.zoo.published import loading

NUMBER = 2000


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """An official folder with NFN's CSV, its weights and its metrics."""
    root = tmp_path_factory.mktemp("gs")
    weights, rows = published_files.cifar10_gs(root / "cifar10", NUMBER)
    order = np.random.default_rng(5).permutation(NUMBER)
    lines = ["0", *map(str, order)]
    (root / "nfn_cifar10_split.csv").write_text("\n".join(lines) + "\n")
    return root, weights, rows, order


def final(rows, order):
    return [int(row) for row in order if rows[row]["step"] == 86]


@pytest.mark.parametrize("split", ["auto", "official", "faithful", "seeded"])
def test_a_folder_is_prepared_bit_for_bit(split, official, tmp_path):
    root, weights, rows, order = official
    builder = loading.prepared(
        "cifar10_gs", tmp_path, split=split, request=Request(manual_dir=root)
    )
    assert builder.builder_config.name == ("official" if split == "auto" else split)
    columns, parts = read(builder)
    expected = splits.nfn(final(rows, order))
    if split == "seeded":
        expected = splits.seeded(sorted(final(rows, order)), 0.1, 0.5)
    for name, part in parts.items():
        assert sorted(columns["row"][part].tolist()) == sorted(expected[name])
    for index, row in enumerate(columns["row"].tolist()):
        assert columns["weights"][index].tobytes() == weights[row].tobytes()
        assert columns["score"][index] == np.float32(rows[row]["test_accuracy"])
        assert columns["activation"][index].decode() == rows[row]["config.activation"]
        assert columns["path"][index].decode() == rows[row][""]


def test_a_large_zoo_is_mapped_and_read_once(official, tmp_path, monkeypatch):
    builder = loading.prepared(
        "cifar10_gs", tmp_path, split="seeded", request=Request(manual_dir=official[0])
    )
    expected, parts = read(builder)
    monkeypatch.setattr(reading, "_LARGE", 1)
    first, first_parts = read(builder)
    monkeypatch.setattr(reading, "_read", None)  # not again
    again, _ = read(builder)
    for columns in (first, again):
        assert isinstance(columns["weights"], np.memmap)
        for name, values in expected.items():
            np.testing.assert_array_equal(columns[name], np.asarray(values))
    for split, rows in parts.items():
        np.testing.assert_array_equal(first_parts[split], rows)
    zoo = loading.load("cifar10_gs", tmp_path, split="seeded")
    root = zoo.weights["layers"][1]["kernel"]
    while isinstance(root, np.ndarray):
        root = root.base
    assert isinstance(root, mmap.mmap)  # nothing was copied on the way to the zoo
    (tmp_path / "cifar10_gs" / "seeded" / "1.0.0" / "columns" / "weights.npy").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        read(builder)


def test_the_official_split_keeps_row_0_twice_and_the_faithful_once(tmp_path):
    _weights, rows = published_files.cifar10_gs(tmp_path, 90)
    for row in rows:
        row["step"] = 86
    published_files.write_metrics(tmp_path / "metrics.csv.gz", rows)
    order = np.random.default_rng(5).permutation(90)
    (tmp_path / "nfn_cifar10_split.csv").write_text("\n".join(["0", *map(str, order)]))
    found = {}
    for split in ("official", "faithful"):
        builder = loading.prepared(
            "cifar10_gs", tmp_path / "data", split=split, request=Request(manual_dir=tmp_path)
        )
        found[split] = read(builder)[0]["row"].tolist()
    assert found["official"].count(0) == 2
    assert found["faithful"].count(0) == 1
    assert sorted(found["faithful"]) == list(range(90))


def make_archive(folder):
    """Writes cifar10.tar.xz as published; returns what is in it."""
    weights, rows = published_files.cifar10_gs(folder / "unpacked", 135)
    published_files.small_cnn_archive(folder / "cifar10.tar.xz", folder / "unpacked")
    return weights, rows


def test_the_archive_is_read_without_unpacking(tmp_path):
    weights, _rows = make_archive(tmp_path)
    manual = tmp_path
    builder = loading.prepared("cifar10_gs", tmp_path / "data", request=Request(manual_dir=manual))
    columns, _ = read(builder)
    assert columns["row"].size == 15
    for index, row in enumerate(columns["row"].tolist()):
        assert columns["weights"][index].tobytes() == weights[row].tobytes()


def test_a_truncated_archive_is_named(tmp_path):
    make_archive(tmp_path)
    path = tmp_path / "cifar10.tar.xz"
    path.write_bytes(path.read_bytes()[:-100_000])
    with pytest.raises(UserError, match=r"cifar10\.tar\.xz: is not a complete archive"):
        loading.prepared("cifar10_gs", tmp_path / "data", request=Request(manual_dir=tmp_path))


def test_the_genuine_layout_and_network(shared):
    folder = shared / "data" / "small_cnn_zoo_real"
    places = small_cnn_files.parse_layout((folder / "layout.csv").read_bytes(), "layout.csv")
    np.testing.assert_array_equal(places, np.arange(4970))
    assert np.load(folder / "optimal_weights.npy").size == 4970


def test_another_order_of_columns_is_put_in_ours():
    lines = published_files.LAYOUT.splitlines()
    swapped = [lines[0], *reversed(lines[1:])]
    start = 0
    for index, line in enumerate(swapped[1:], 1):
        name, _, _, size, shape = line.split(",", 4)
        swapped[index] = f"{name},{start},{start + int(size)},{size},{shape}"
        start += int(size)
    places = small_cnn_files.parse_layout("\n".join(swapped).encode(), "layout.csv")
    assert sorted(places) == list(range(4970))
    assert places[0] == 4970 - 16


def layout(text):
    return lambda folder: (folder / "layout.csv").write_text(text)


def truncate(name):
    def change(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-50])

    return change


def metrics(change):
    def rewrite(folder):
        path = folder / "metrics.csv.gz"
        path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))

    return rewrite


CODE = published_files.LAYOUT.replace('"(16,)"', "\"__import__('os').abort()\"")
BAD = {
    "layout code": (layout(CODE), r"layout\.csv: line 2 is not readable"),
    "layout shape": (
        layout(published_files.LAYOUT.replace("(3, 3, 1, 16)", "(3, 3, 3, 16)")),
        "not the Small CNN Zoo's architecture",
    ),
    "layout short": (
        layout("\n".join(published_files.LAYOUT.splitlines()[:-1])),
        r"layout\.csv: has no sequential/dense/kernel:0",
    ),
    "weights": (truncate("weights.npy"), r"weights\.npy: is truncated or damaged"),
    "metrics": (truncate("metrics.csv.gz"), r"metrics\.csv\.gz: is truncated or damaged"),
    "column": (
        metrics(lambda text: text.replace(b"test_accuracy", b"accuracy")),
        "has no column 'test_accuracy'",
    ),
    "rows": (
        metrics(lambda text: b"\n".join(text.split(b"\n")[:-5])),
        "has 90 rows, metrics.csv.gz has",
    ),
    "number": (metrics(lambda text: text.replace(b",86,", b",last,")), "is not readable"),
    "none final": (metrics(lambda text: text.replace(b",86,", b",80,")), "no row has step 86"),
    "missing": (lambda folder: (folder / "layout.csv").unlink(), r"layout\.csv: cannot be read"),
    "double": (
        lambda folder: np.save(folder / "weights.npy", np.zeros((90, 4970))),
        r"is float64 \(90, 4970\), expected float32",
    ),
    "narrow": (
        lambda folder: np.save(folder / "weights.npy", np.zeros((90, 100), np.float32)),
        r"has 100 columns, layout\.csv says 4970",
    ),
    "score": (
        metrics(lambda text: text.replace(b"2.0", b"2.0").replace(b",0.", b",7.")),
        "its test accuracy is 7.* outside 0 to 1",
    ),
    "activation": (
        metrics(lambda text: text.replace(b"tanh", b"cosh")),
        "its activation 'cosh' is unknown",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_and_leaves_nothing(case, tmp_path):
    change, fault = BAD[case]
    published_files.cifar10_gs(tmp_path, 90)
    change(tmp_path)
    with pytest.raises(UserError, match=fault) as error:
        loading.prepared("cifar10_gs", tmp_path / "data", request=Request(manual_dir=tmp_path))
    assert str(tmp_path) in str(error.value)
    assert not list((tmp_path / "data").rglob("dataset_info.json"))


def test_nan_in_a_row_that_is_used_only(tmp_path):
    weights, rows = published_files.cifar10_gs(tmp_path, 90)
    unused, used = (next(i for i in itertools.count() if rows[i]["step"] == s) for s in (3, 86))
    weights[unused, 5] = np.nan
    np.save(tmp_path / "weights.npy", weights)
    loading.prepared("cifar10_gs", tmp_path / "a", request=Request(manual_dir=tmp_path))
    weights[used, 5] = np.nan
    np.save(tmp_path / "weights.npy", weights)
    with pytest.raises(UserError, match=rf"weights\.npy: row {used}: holds NaN"):
        loading.prepared("cifar10_gs", tmp_path / "b", request=Request(manual_dir=tmp_path))
    request = Request(manual_dir=tmp_path, skip_bad=True)
    builder = loading.prepared("cifar10_gs", tmp_path / "b", request=request)
    assert len(read(builder)[0]["row"]) == 9


def test_official_without_its_file(tmp_path):
    published_files.cifar10_gs(tmp_path, 90)
    with pytest.raises(UserError, match=r"split is 'faithful', but there is no nfn_cifar10_split"):
        loading.prepared(
            "cifar10_gs", tmp_path / "d", split="faithful", request=Request(manual_dir=tmp_path)
        )
