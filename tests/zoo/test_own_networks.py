"""Zoos of networks that read images, found in files; large ones stay in their files."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from vits import SMALL, in_layout, random_networks, save_model_folder

from configs import own_networks
from probegen_jax.errors import UserError
from probegen_jax.networks.options import ReadOptions
from probegen_jax.networks.pixels import Pixels
from probegen_jax.runs import zoo_facts
from probegen_jax.runs.zoo_from_config import from_config
from probegen_jax.zoo.own import families, reading
from probegen_jax.zoo.zoo import Stored

NETWORKS = random_networks(SMALL, 10)


@pytest.fixture
def folder(tmp_path):
    """Ten vision transformers in folders as Hugging Face writes them, and their CSV."""
    for n, network in enumerate(NETWORKS):
        save_model_folder(tmp_path / "zoo" / f"model{n}", network)
    lines = ["path,target", *(f"model{n},{'ab'[n % 2]}" for n in range(len(NETWORKS)))]
    (tmp_path / "zoo" / "targets.csv").write_text("\n".join(lines))
    return tmp_path / "zoo"


def config_of(folder, **changes):
    config = own_networks.get_config("")
    config.networks_dir, config.targets_csv = str(folder), str(folder / "targets.csv")
    config.data_dir = str(folder.parent / "cache")
    config.update(changes)
    return config


def stacked(rows):
    return SMALL.stack([NETWORKS[row] for row in rows])[1]


def test_model_folders_are_a_zoo_and_large_networks_stay_in_their_files(folder, monkeypatch):
    config = config_of(folder)
    zoo = from_config(config)
    assert zoo.spec == SMALL and zoo.spec.pixels == Pixels((0.5, 0.4), (0.2, 0.3))
    assert zoo.called == ("a", "b") and not isinstance(zoo.weights, Stored)
    rows = np.array([7, 2, 2])
    jax.tree.map(np.testing.assert_array_equal, zoo.read(rows), stacked(rows))

    monkeypatch.setattr(reading, "_LARGE", 10)
    cached = sum(file.stat().st_size for file in (folder.parent / "cache").iterdir())
    streamed = from_config(config)
    assert isinstance(streamed.weights, Stored)
    jax.tree.map(np.testing.assert_array_equal, streamed.read(rows), stacked(rows))
    assert streamed.describe().splitlines()[0].startswith("zoo: 10 networks of 4,133 weights")
    grown = sum(file.stat().st_size for file in (folder.parent / "cache").iterdir()) - cached
    assert 0 < grown < cached / 4  # no copy of the weights
    facts = zoo_facts.facts(streamed, config)
    save_model_folder(folder / "again", NETWORKS[1])
    shutil.rmtree(folder / "model3")
    (folder / "again").rename(folder / "model3")
    assert zoo_facts.facts(from_config(config), config)["weights"] != facts["weights"]


def test_networks_of_other_kinds_are_told_and_can_be_left_out(folder, monkeypatch, capsys):
    monkeypatch.setattr(reading, "_LARGE", 10)
    said = json.loads((folder / "model4" / "config.json").read_text())
    (folder / "model4" / "config.json").write_text(json.dumps(said | {"num_attention_heads": 3}))
    (folder / "model6" / "config.json").write_text("{")
    config = config_of(folder)
    with pytest.raises(UserError, match=r"model4.*config.json says num_attention_heads 3, not 2"):
        from_config(config)
    (folder / "model0" / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"model0: is a folder with no network files; name the file"
    ):
        from_config(config)
    zoo = from_config(config_of(folder, skip_bad=True))
    assert len(zoo) == 7 and "3 bad networks were left out" in capsys.readouterr().out
    rows = np.array([0, 6])
    jax.tree.map(np.testing.assert_array_equal, zoo.read(rows), stacked([1, 9]))


def test_bare_files_need_what_they_do_not_say(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(in_layout("timm", NETWORKS[0]), file)
    given = {"heads": 2, "norm_eps": 1e-3, "image_size": None}
    with pytest.raises(UserError, match=r"positions for 6 patches, but images of 8×8"):
        families.find(file, ReadOptions(), given)
    given = given | {"image_size": [8, 12], "pixel_mean": (0.1, 0.2), "pixel_std": (1.0, 2.0)}
    spec = families.find(file, ReadOptions(), given)
    assert spec == SMALL and spec.pixels == Pixels((0.1, 0.2), (1.0, 2.0))
    with pytest.raises(UserError, match=r"images' mean is .* and their std None; give both"):
        families.find(file, ReadOptions(), given | {"pixel_std": None})
    save_file({"odd.weight": np.ones((2, 2), np.float32)}, file)
    with pytest.raises(UserError, match=r"no vision transformer: .*; other networks are read with"):
        families.find(file, ReadOptions(), given)


FUNCTION = """
import numpy as np
from probegen_jax.networks.function import from_function

def apply(weights, probes):
    return np.float32({scale}) * (probes @ weights["kernel"])

spec = from_function(apply, {{"kernel": np.zeros((3, 2), np.float32)}}, (3,))
"""


def test_a_function_of_ones_own_is_a_zoo_and_another_function_another_zoo(tmp_path):
    random, file = np.random.default_rng(0), tmp_path / "mine.py"
    kernels = random.standard_normal((10, 3, 2), np.float32)
    lines = ["path,target"]
    (tmp_path / "zoo").mkdir()
    for n, kernel in enumerate(kernels):
        save_file({"kernel": kernel}, tmp_path / "zoo" / f"{n}.safetensors")
        lines.append(f"{n}.safetensors,{n % 2}")
    (tmp_path / "zoo" / "targets.csv").write_text("\n".join(lines))
    file.write_text(FUNCTION.format(scale=2))
    config = config_of(tmp_path / "zoo", network=f"{file}:spec")
    zoo = from_config(config)
    np.testing.assert_array_equal(zoo.weights["kernel"], kernels)
    facts = zoo_facts.facts(zoo, config)
    assert facts == zoo_facts.facts(from_config(config), config)
    file.write_text(FUNCTION.format(scale=3))
    assert zoo_facts.facts(from_config(config), config)["spec"] != facts["spec"]
    file.write_text(FUNCTION.format(scale="np.nan"))
    with pytest.raises(UserError, match=r"answers of the first network, .* are NaN"):
        from_config(config)
