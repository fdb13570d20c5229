"""CNNs of the user's own through every command."""

import numpy as np
import pytest

pytest.importorskip("torch")

import own_cnns
import torch

import probegen_jax
from probegen_jax import describe_zoo, evaluate, export, predict, train
from probegen_jax.errors import UserError

pytestmark = pytest.mark.slow

SMALL = {"num_epochs": 2, "num_probes": 4, "batch_size": 8, "eval_every": 2, "head_width": 8}


def flags(folder, **values):
    values = {
        "networks_dir": folder,
        "targets_csv": folder / "targets.csv",
        "data_dir": folder.parent / "cache",
        **SMALL,
        **values,
    }
    return [f"--config.{key}={value}" for key, value in values.items()]


def made(n, mixed):
    torch.manual_seed(n)
    kinds = ((own_cnns.Net(), own_cnns.NET_JSON), own_cnns.other(), own_cnns.small())
    model, content = kinds[n % 3 if mixed else 0]
    return own_cnns.trained(model, n), content if mixed else None


@pytest.mark.parametrize("mixed", [False, True])
def test_every_command_takes_them(mixed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    models = [made(n, mixed) for n in range(30)]
    folder = own_cnns.write(tmp_path / "zoo", models)
    said = {"image_size": 16} | ({} if mixed else own_cnns.NET_SETTINGS)
    argv = ["--config=configs/own_cnn.py", *flags(folder, **said)]
    describe_zoo.main(["describe_zoo", *argv])
    assert "zoo: 30 networks" in capsys.readouterr().out
    train.main(["train", *argv, "--workdir=run"])
    for name in ("report.html", "probes.png", "result.json"):
        assert (tmp_path / "run" / name).is_file()
    evaluate.main(["evaluate", "run"])
    assert "the same figures" in capsys.readouterr().out
    export.main(["export", "run", "model"])
    given = [str(folder / f"{n}.pth") for n in (4, 2, 7)]
    found = [probegen_jax.load(name).predict(given) for name in ("run", "model")]
    assert found[0].faults == [None] * 3 and np.isfinite(found[0].values).all()
    np.testing.assert_array_equal(found[0].values, found[1].values)
    # Networks that the zoo has not: in memory, and one that cannot be used.
    predictor = probegen_jax.load("model")
    memory = [dict(models[4][0].state_dict()), {"conv1.weight": torch.zeros(6, 3, 3, 3)}]
    mine = predictor.predict(memory)
    np.testing.assert_array_equal(mine.values[0], found[0].values[0])
    assert mine.faults[0] is None and "this run expects a CNN for images of 16" in mine.faults[1]
    predict.main(["predict", "model", *given, "--out=again.csv"])
    assert len((tmp_path / "again.csv").read_text().splitlines()) == 4


def test_fixed_images_need_the_networks_statistics(tmp_path):
    folder = own_cnns.write(tmp_path / "zoo", [made(n, True) for n in range(30)])
    argv = ["train", "--config=configs/own_cnn.py:dead_leaves", f"--workdir={tmp_path / 'run'}"]
    argv += flags(folder, image_size=16, report=False)
    with pytest.raises(UserError, match="nothing says how these were normalised"):
        train.main(argv)
    train.main(
        [*argv, "--config.pixel_mean=(0.5, 0.4, 0.3)", "--config.pixel_std=(0.2, 0.2, 0.25)"]
    )
    assert (tmp_path / "run" / "result.json").is_file()


def test_images_that_a_generator_cannot_make_are_told(tmp_path):
    folder = own_cnns.write(tmp_path / "zoo", [made(n, True) for n in range(2, 90, 3)])
    argv = ["train", "--config=configs/own_cnn.py", f"--workdir={tmp_path / 'run'}"]
    with pytest.raises(UserError, match="cannot make 18×18 images; they must be square"):
        train.main([*argv, *flags(folder, image_size=18)])
    assert not (tmp_path / "run" / "result.json").exists()
