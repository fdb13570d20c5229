"""A run on a function of the user's own: its file is run only where the user names it."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import probegen_jax
from probegen_jax import describe_zoo, evaluate, export, predict, train
from probegen_jax.errors import UserError
from probegen_jax.runs.folder import computed, refuse_code

FILE = """
import jax
import numpy as np
from probegen_jax.networks.function import from_function

def apply(weights, probes):
    return jax.nn.relu(probes @ weights["in"]["kernel"]) @ weights["out"]

shapes = {"in": {"kernel": np.zeros((2, 4), np.float32)}, "out": np.zeros((4, 1), np.float32)}
spec = from_function(apply, shapes, (2,))
"""


def test_only_who_names_the_file_has_it_run(tmp_path):
    refuse_code(tmp_path, None, {})
    refuse_code(tmp_path, "/mine.py:spec", {"network": "mine.py:spec"})
    with pytest.raises(UserError, match=r"/mine.py:spec, which is a program; if you trust it"):
        refuse_code(tmp_path, "/mine.py:spec", {"networks_dir": "zoo"})


A = {"dataset": "a", "method": "probegen"}


def test_a_depth_left_open_is_not_the_default():
    left_open, usual = (computed(A | {"generator_depth": depth}) for depth in (None, 2))
    assert computed(A) == usual != left_open
    assert computed(left_open) == left_open


@pytest.mark.slow
def test_it_trains_and_predicts_and_nothing_runs_the_file_unasked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    (tmp_path / "zoo").mkdir()
    lines = ["path,target"]
    for n in range(24):
        arrays = {"in.kernel": random.standard_normal((2, 4), np.float32)}
        arrays["out"] = np.full((4, 1), (-1) ** n, np.float32)
        save_file(arrays, f"zoo/{n}.safetensors")
        lines.append(f"{n}.safetensors,{'even' if n % 2 == 0 else 'odd'}")
    (tmp_path / "zoo" / "targets.csv").write_text("\n".join(lines))
    (tmp_path / "mine.py").write_text(FILE)
    flags = ["", "--config=configs/own_networks.py:4", "--config.network=mine.py:spec"]
    flags += ["--config.networks_dir=zoo", "--config.targets_csv=zoo/targets.csv"]
    flags += ["--config.data_dir=cache"]
    describe_zoo.main(flags)
    assert "zoo: 24 networks of 12 weights" in capsys.readouterr().out
    flags += ["--workdir=run", "--config.report=False", "--config.num_epochs=8"]
    flags += ["--config.learning_rate=0.01", "--config.batch_size=8", "--config.head_depth=2"]
    train.main(flags)
    train.main(flags)
    assert "run is finished" in capsys.readouterr().out

    monkeypatch.chdir("/")
    run, network = str(tmp_path / "run"), f"{tmp_path}/mine.py:spec"
    named = f"--network={network}"
    for command in (
        lambda: predict.main(["", run, "--split=test"]),
        lambda: evaluate.main(["", run]),
        lambda: export.main(["", run, str(tmp_path / "model")]),
        lambda: probegen_jax.load(run),
    ):
        with pytest.raises(UserError, match=f"which is a program; if you trust it, .* {named}"):
            command()
    evaluate.main(["", run, named])
    assert "the same figures as" in capsys.readouterr().out
    out = tmp_path / "out.csv"
    predict.main(["", run, str(tmp_path / "zoo"), named, f"--out={out}"])
    rows = [line.split(",") for line in out.read_text().splitlines()[1:]]
    assert sum(row[1] == ("even", "odd")[n % 2] for n, row in enumerate(rows)) >= 20
    with pytest.raises(UserError, match="cannot export a run on networks like FunctionSpec"):
        export.main(["", run, str(tmp_path / "model"), named])
    predictor = probegen_jax.load(run, places={"network": network})
    assert predictor.spec.response_dim == 1
    (tmp_path / "mine.py").write_text(FILE.replace("relu", "tanh"))
    with pytest.raises(UserError, match="run on another zoo: spec"):
        probegen_jax.load(run, places={"network": network})
