import json
import os
import shutil

import numpy as np
import published_files
import pytest
import tensorflow_datasets as tfds

from probegen_jax.errors import UserError
from probegen_jax.zoo.prepared.builders import Request
from probegen_jax.zoo.prepared.reading import read
from probegen_jax.zoo.published import loading


@pytest.fixture
def manual(tmp_path):
    """A folder with a small CIFAR10-GS, which needs no torch."""
    folder = tmp_path / "manual"
    published_files.cifar10_gs(folder, 180)
    return folder


def order(folder, seed):
    rows = np.random.default_rng(seed).permutation(180)
    (folder / "nfn_cifar10_split.csv").write_text("\n".join(map(str, rows)))


def test_an_unknown_split_is_told(manual, tmp_path):
    with pytest.raises(UserError, match="split is 'mine'; choose auto, official, faithful, seeded"):
        loading.prepared("cifar10_gs", tmp_path / "data", split="mine")


def test_what_is_prepared_needs_its_files_no_more(manual, tmp_path):
    order(manual, 0)
    data = tmp_path / "data"
    first, _ = read(loading.prepared("cifar10_gs", data, request=Request(manual_dir=manual)))
    for path in manual.iterdir():
        path.unlink()
    for request in (None, Request(manual_dir=manual)):
        again, _ = read(loading.prepared("cifar10_gs", data, request=request))
        np.testing.assert_array_equal(again["row"], first["row"])


def rows_of(data, **request):
    builder = loading.prepared("cifar10_gs", data, request=Request(**request))
    return sorted(read(builder)[0]["row"]), builder.folder


def folders(data):
    return sorted(path.parent for path in data.rglob("dataset_info.json"))


def test_another_source_is_prepared_beside_and_each_is_found_again(manual, tmp_path, capsys):
    data, other = tmp_path / "data", tmp_path / "other"
    first = rows_of(data, manual_dir=manual)
    published_files.cifar10_gs(other, 90)
    second = rows_of(data, manual_dir=other)
    assert f"what is prepared was made of other files, from {manual}" in capsys.readouterr().out
    assert (len(first[0]), len(second[0])) == (20, 10)
    assert rows_of(data, manual_dir=manual) == first
    assert rows_of(data, manual_dir=other) == second
    assert "preparing" not in capsys.readouterr().out
    assert folders(data) == sorted([first[1], second[1]])
    with pytest.raises(UserError, match=r"zoos of .*manual, .*other are prepared; say which"):
        rows_of(data)


def grow(folder):
    published_files.cifar10_gs(folder, 270)


def mend_one_number(folder):
    weights = np.load(folder / "weights.npy", mmap_mode="r+")
    weights[8, 0] += 1
    weights.flush()


def exchange_with_the_same_size_and_time(folder):
    path = folder / "weights.npy"
    before = path.stat()
    np.save(path, np.load(path)[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


@pytest.mark.parametrize("change", [grow, mend_one_number, exchange_with_the_same_size_and_time])
def test_a_folder_that_changed_is_prepared_again_beside(change, manual, tmp_path):
    data = tmp_path / "data"
    before, _ = read(loading.prepared("cifar10_gs", data, request=Request(manual_dir=manual)))
    change(manual)
    after, _ = read(loading.prepared("cifar10_gs", data, request=Request(manual_dir=manual)))
    before, after = (np.asarray(columns["weights"]) for columns in (before, after))
    assert before.shape != after.shape or (np.sort(before, 0) != np.sort(after, 0)).any()
    weights = np.load(manual / "weights.npy")[8::9]
    np.testing.assert_array_equal(np.sort(after, 0), np.sort(weights, 0))


def test_a_folder_that_moved_is_known_by_its_files(manual, tmp_path):
    first = rows_of(tmp_path / "data", manual_dir=manual)
    manual.rename(tmp_path / "moved")
    assert rows_of(tmp_path / "data", manual_dir=tmp_path / "moved") == first


def test_what_is_gone_is_no_reason_to_use_another_zoo(manual, tmp_path, capsys):
    data, other = tmp_path / "data", tmp_path / "other"
    published_files.cifar10_gs(other, 90)
    found = {path: rows_of(data, manual_dir=path) for path in (manual, other)}
    for path in found:
        shutil.rmtree(path)
    capsys.readouterr()
    for path, expected in found.items():
        assert rows_of(data, manual_dir=path) == expected
        told = f"{path} no longer has the zoo; using what was prepared from {path}, in"
        assert told in capsys.readouterr().out
    with pytest.raises(UserError, match="no cifar10_gs zoo here"):
        rows_of(data, manual_dir=tmp_path / "neither")


def make_it_old(folder):
    """As an earlier version left it, which noted less."""
    metadata = json.loads((folder / "metadata.json").read_text())
    del metadata["made_of"]
    (folder / "metadata.json").write_text(json.dumps(metadata))
    (folder / "SHA256SUMS").unlink()


def test_what_an_earlier_version_prepared_is_used_until_its_files_change(manual, tmp_path):
    data = tmp_path / "data"
    first = rows_of(data, manual_dir=manual)
    make_it_old(first[1])
    assert rows_of(data, manual_dir=manual) == first
    assert rows_of(data) == first
    grow(manual)
    assert len(rows_of(data, manual_dir=manual)[0]) == 30


def test_another_official_split_is_prepared_beside(manual, tmp_path):
    data, splits = tmp_path / "data", []
    for seed in (0, 1, 0):
        order(manual, seed)
        columns, rows = read(
            loading.prepared("cifar10_gs", data, request=Request(manual_dir=manual))
        )
        splits.append(sorted(np.asarray(columns["row"])[rows["test"]].tolist()))
    assert splits[0] == splits[2] != splits[1]
    assert len(folders(data)) == 2


def test_a_seeded_zoo_gives_way_to_the_official_split_when_it_comes(manual, tmp_path, capsys):
    data = tmp_path / "data"
    loading.prepared("cifar10_gs", data, request=Request(manual_dir=manual))
    assert "no official split (nfn_cifar10_split.csv) in use" in capsys.readouterr().out
    order(manual, 0)
    builder = loading.prepared("cifar10_gs", data, request=Request(manual_dir=manual))
    assert builder.builder_config.name == "official"
    assert "the split is seeded" not in capsys.readouterr().out


DAMAGE = {
    "truncated": ("*-train.array_record*", lambda path: path.write_bytes(path.read_bytes()[:4000])),
    "empty": ("*-val.array_record*", lambda path: path.write_bytes(b"")),
    "missing": ("*-test.array_record*", lambda path: path.unlink()),
    "garbage": ("*-train.array_record*", lambda path: path.write_bytes(b"x" * 70_000)),
    "info": ("dataset_info.json", lambda path: path.write_text("{")),
    "no info": ("dataset_info.json", lambda path: path.unlink()),
    "no metadata": ("metadata.json", lambda path: path.unlink()),
    "metadata": ("metadata.json", lambda path: path.write_text(json.dumps({}))),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_prepared_zoo_is_told(case, manual, tmp_path):
    pattern, damage = DAMAGE[case]
    data = tmp_path / "data"
    builder = loading.prepared("cifar10_gs", data, request=Request(manual_dir=manual))
    (path,) = builder.folder.glob(pattern)
    damage(path)
    with pytest.raises(UserError, match=r"is damaged .*; delete that folder and run again"):
        read(loading.prepared("cifar10_gs", data))


def test_tfds_knows_the_builders(manual, tmp_path):
    data = tmp_path / "data"
    loading.prepared("cifar10_gs", data, request=Request(manual_dir=manual))
    builder = tfds.builder("cifar10_gs/seeded", data_dir=data)
    networks = builder.as_data_source("val")
    assert networks[0]["weights"].shape == (4970,)
    with pytest.raises(UserError, match=r"no cifar10_gs zoo here; it needs weights.npy"):
        other = tfds.builder(
            "cifar10_gs/seeded",
            data_dir=tmp_path / "other",
            request=Request(manual_dir=tmp_path),
        )
        other.download_and_prepare()


def test_a_split_without_a_good_network_is_told(manual, tmp_path):
    weights = np.load(manual / "weights.npy")
    np.save(manual / "weights.npy", np.full_like(weights, np.nan))
    request = Request(manual_dir=manual, skip_bad=True)
    with pytest.raises(UserError, match=r"no network of a split can be used; .*row \d+: holds NaN"):
        loading.prepared("cifar10_gs", tmp_path / "data", request=request)
    assert not list((tmp_path / "data").rglob("dataset_info.json"))


def test_an_unknown_fidelity_is_told(tmp_path):
    with pytest.raises(UserError, match="fidelity is 'true'; choose faithful or official"):
        loading.load("cifar10_gs", tmp_path, fidelity="true")
