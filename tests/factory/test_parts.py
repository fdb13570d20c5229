"""A build's folder: what is refused, what is made again, what a data set holds at the end."""

import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import REPO

from probegen_jax.errors import UserError
from probegen_jax.factory import parts
from probegen_jax.factory.cnn import train_cnns
from probegen_jax.zoo import cache
from probegen_jax.zoo.prepared import build_folder as data_set
from probegen_jax.zoo.prepared import built_zoos

PLAN = {"family": "inr", "recipe": {"steps": 80}, "hidden": [32, 32]}
SIZES = [4, 4, 2]


def make(part: int) -> parts.Arrays:
    rng = np.random.default_rng(part)
    return {"weights": rng.standard_normal((SIZES[part], 1185), np.float32)}


def contents(build: parts.Build) -> data_set.Contents:
    def examples(part):
        for row, vector in enumerate(build.read(part)["weights"]):
            yield {"weights": vector, "label": row % 2}

    return data_set.Contents(
        "inr",
        {
            "weights": tfds.features.Tensor(shape=(1185,), dtype=np.float32, encoding="bytes"),
            "label": np.int32,
        },
        {name: lambda i=i: examples(i) for i, name in enumerate(("train", "val", "test"))},
        {
            "name": "little",
            "class_names": ["a", "b"],
            "image_shape": [8, 8],
            "spec": {"hidden": [32, 32]},
        },
        "A zoo.",
    )


def test_a_build_goes_on_and_its_data_set_holds_all_networks_in_order(tmp_path):
    made = []

    def dying(part):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(part)
        return make(part)

    with parts.Build(tmp_path, PLAN, {}) as build, pytest.raises(KeyboardInterrupt):
        build.run(SIZES, dying)
    (tmp_path / "parts" / ".part-00002.npz").write_bytes(b"cut short")
    with pytest.raises(UserError, match="is not finished; run the command that builds it again"):
        built_zoos.load(tmp_path, "inr")
    with parts.Build(tmp_path, PLAN, {}) as build:
        build.run(SIZES, lambda part: made.append(part) or make(part))
        assert made == [0, 1, 2]
        data_set.write(tmp_path, contents(build))
        build.clean()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "built_zoo", "plan.json"]
    zoo = built_zoos.load(tmp_path, "inr")
    expected = np.concatenate([make(part)["weights"] for part in range(3)])
    np.testing.assert_array_equal(zoo.weights[0]["bias"], expected[:, :32])
    assert {split: rows.tolist() for split, rows in zoo.splits.items()} == {
        "train": [0, 1, 2, 3],
        "val": [4, 5, 6, 7],
        "test": [8, 9],
    }
    assert (zoo.name, zoo.num_outputs, zoo.image_shape) == ("little", 2, (8, 8))
    with pytest.raises(UserError, match="of the family 'inr', but this config is for 'cnn'"):
        built_zoos.load(tmp_path, "cnn")


def test_another_plan_is_refused_with_what_differs(tmp_path):
    with parts.Build(tmp_path, PLAN, {"jax": "1"}) as build:
        build.run(SIZES, make)
    other = PLAN | {"recipe": {"steps": 90}, "copies": 2}
    message = r"another zoo: copies \(absent there, 2 here\), recipe.steps \(80 there, 90 here\)"
    with pytest.raises(UserError, match=message), parts.Build(tmp_path, other, {"jax": "1"}):
        pass
    message = r"made_with\.jax \('1' there, '2' here\)"
    with pytest.raises(UserError, match=message), parts.Build(tmp_path, PLAN, {"jax": "2"}):
        pass
    build.clean()
    with parts.Build(tmp_path, PLAN, {"jax": "2"}):
        pass  # once it is finished, other versions find the same zoo
    assert json.loads((tmp_path / "plan.json").read_text())["recipe"] == {"steps": 80}


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    message = r"holds 'thesis\.tex' and no plan\.json"
    with pytest.raises(UserError, match=message), parts.Build(tmp_path, PLAN, {}):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    below = parts.Build(tmp_path / "thesis.tex" / "zoo", PLAN, {})
    with pytest.raises(UserError, match=r"cannot write .*--out=DIR"), below:
        pass
    with pytest.raises(UserError, match=r"no zoo in .*build_zoo"):
        built_zoos.load(tmp_path, "inr")


def test_a_damaged_part_is_named(tmp_path):
    with parts.Build(tmp_path, PLAN, {}) as build:
        build.run(SIZES, make)
    path = tmp_path / "parts" / "part-00001.npz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"part-00001\.npz: cannot be read .*delete it and run"):
        data_set.write(tmp_path, contents(build))
    assert not data_set.is_written(tmp_path)


def test_a_build_that_other_code_began_is_refused_with_what_to_do(tmp_path):
    with parts.Build(tmp_path, PLAN, {"jax": "1", "code": "abc"}) as build:
        build.run(SIZES, make)
    message = (
        r"is half built, by other code or on another machine: made_with\.code \('abc' there, 'def' "
        r"here\); finish it as it was begun, or delete .* and run the same command again"
    )
    with pytest.raises(UserError, match=message):
        parts.Build(tmp_path, PLAN, {"jax": "1", "code": "def"}).__enter__()


@pytest.mark.parametrize(
    ("file", "decides"),
    [
        ("factory/cnn/train_cnns.py", True),
        ("factory/cnn/fit.py", True),
        ("factory/images/sources.py", True),
        ("zoo/flat_weights.py", True),
        ("factory/cnn/export.py", False),
        ("factory/inr/fit.py", False),
        ("training/mesh.py", False),
    ],
)
def test_the_hash_is_of_all_code_that_decides_what_networks_become(tmp_path, file, decides):
    shutil.copytree(
        REPO / "probegen_jax", tmp_path / "probegen_jax", ignore=shutil.ignore_patterns("*.pyc")
    )

    def copy_hash() -> str:
        return cache.source_hash(train_cnns, parts.CODE, tmp_path)

    assert copy_hash() == parts.code_hash(train_cnns)
    with (tmp_path / "probegen_jax" / file).open("a") as code:
        code.write("# changed\n")
    assert (copy_hash() != parts.code_hash(train_cnns)) == decides


def test_imports_are_followed_within_the_rooms_and_within_functions(tmp_path):
    package = tmp_path / "house" / "room"
    package.mkdir(parents=True)
    (package / "a.py").write_text("def f():\n    from house.room import b, nothing\n")
    (package / "b.py").write_text("import house.room.c\nimport house.roomy, numpy\n")
    (package / "c.py").write_text("from house.room.a import f\n")
    (tmp_path / "house" / "roomy.py").write_text("")
    seen = [cache.source_hash("house.room.a", ["house.room"], tmp_path)]
    for changed, differs in ((package / "c.py", True), (tmp_path / "house" / "roomy.py", False)):
        changed.write_text(changed.read_text() + "x = 1\n")
        seen.append(cache.source_hash("house.room.a", ["house.room"], tmp_path))
        assert (seen[-1] != seen[-2]) == differs
    (package / "c.py").write_text("from . import a\n")
    with pytest.raises(ValueError, match=r"c\.py: line 1: an import that is relative"):
        cache.source_hash("house.room.a", ["house.room"], tmp_path)
    with pytest.raises(ValueError, match=r"house\.kitchen\.a is no module in house\.room"):
        cache.source_hash("house.kitchen.a", ["house.room"], tmp_path)
