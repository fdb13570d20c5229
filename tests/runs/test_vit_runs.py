"""A zoo of vision transformers in Hugging Face's folders, from training to a moved model."""

import dataclasses

import numpy as np
import pytest
from vits import SMALL, random_networks, save_model_folder

import probegen_jax
from probegen_jax import describe_zoo, evaluate, export, predict, train
from probegen_jax.training import streaming
from probegen_jax.zoo.own import reading

SQUARE = dataclasses.replace(SMALL, image_shape=(8, 8, 2))


@pytest.mark.slow
@pytest.mark.parametrize("large", [True, False], ids=["streamed", "kept"])
def test_it_trains_predicts_and_is_exported(large, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if large:
        monkeypatch.setattr(reading, "_LARGE", 10)
        monkeypatch.setattr(streaming, "_LARGE_BYTES", 10)
    lines, signs = ["path,target"], (-1) ** np.arange(30)
    for n, network in enumerate(random_networks(SQUARE, 30)):
        network["head"]["bias"] += np.float32(signs[n])
        save_model_folder(tmp_path / "zoo" / f"m{n}", network, image_size=8)
        lines.append(f"m{n},{'up' if signs[n] > 0 else 'down'}")
    (tmp_path / "zoo" / "targets.csv").write_text("\n".join(lines))
    flags = ["", "--config=configs/own_networks.py:4", "--config.data_dir=cache"]
    flags += ["--config.networks_dir=zoo", "--config.targets_csv=zoo/targets.csv"]
    describe_zoo.main(flags)
    assert f"zoo: 30 networks of {SQUARE.num_weights:,} weights" in capsys.readouterr().out
    flags += ["--workdir=run", "--config.num_epochs=10", "--config.learning_rate=0.01"]
    flags += ["--config.batch_size=6", "--config.head_depth=2", "--config.head_width=32"]
    flags += [f"--config.data.mode={'stream' if large else 'auto'}"]
    train.main(flags)
    evaluate.main(["", "run"])
    assert "the same figures as" in capsys.readouterr().out
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    predict.main(["", "run", "zoo", "--out=run.csv"])
    export.main(["", "run", "model"])
    predict.main(["", "model", "zoo", "--out=model.csv"])
    assert (tmp_path / "run.csv").read_text() == (tmp_path / "model.csv").read_text()
    rows = [line.split(",") for line in (tmp_path / "run.csv").read_text().splitlines()[1:]]
    right = sum(row[1] == ("up", "down")[n % 2] for n, row in enumerate(rows))
    assert len(rows) == 30 and right >= 24
    assert probegen_jax.load("model").spec == SQUARE
