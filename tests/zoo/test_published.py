import json

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


def test_another_source_is_refused_and_not_passed_over(manual, tmp_path):
    data = tmp_path / "data"
    loading.prepared("cifar10_gs", data, request=Request(manual_dir=manual))
    published_files.cifar10_gs(tmp_path / "other", 90)
    with pytest.raises(UserError, match=r"was prepared from .*manual, but manual_dir has it in"):
        loading.prepared("cifar10_gs", data, request=Request(manual_dir=tmp_path / "other"))


def test_another_official_split_is_refused(manual, tmp_path):
    data = tmp_path / "data"
    order(manual, 0)
    loading.prepared("cifar10_gs", data, request=Request(manual_dir=manual))
    order(manual, 1)
    with pytest.raises(UserError, match=r"was prepared with another split than .*\.csv; delete"):
        loading.prepared("cifar10_gs", data, request=Request(manual_dir=manual))


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
