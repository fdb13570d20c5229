"""What can be known before training is told before it, in one line, and blocks nothing."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

import probegen_jax
from probegen_jax import errors, settings
from probegen_jax.errors import UserError
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.runs import checks
from probegen_jax.runs.experiment import set_up
from probegen_jax.training import memory
from probegen_jax.training.loop import Training
from probegen_jax.training.mesh import make_mesh, split_cpu
from probegen_jax.zoo.own.files_and_targets import from_arrays
from probegen_jax.zoo.own.targets import read_csv
from probegen_jax.zoo.zoo import Zoo

ROWS = {"train": np.arange(20), "val": np.arange(20, 26), "test": np.arange(26, 32)}
PATH = pathlib.Path("configs/mine.py")
SHORT = {"num_epochs": 1, "batch_size": 4, "head_depth": 2, "head_width": 4, "report": False}


def zoo_of(targets_N, task: str, outputs: int) -> Zoo:
    random, spec = np.random.default_rng(0), SirenSpec(hidden=(4,))
    weights = jax.tree.map(
        lambda leaf: random.standard_normal((32, *leaf.shape)).astype(np.float32), spec.abstract()
    )
    return Zoo("mine", spec, weights, targets_N, ROWS, task, outputs)


def values(**of_split) -> Zoo:
    """Values that all differ, but those that are given for a split."""
    targets_N = np.linspace(0, 1, 32, dtype=np.float32)
    for split, value in of_split.items():
        targets_N[ROWS[split]] = value
    return zoo_of(targets_N, "regression", 1)


def classes(**of_split) -> Zoo:
    targets_N = np.arange(32, dtype=np.int32) % 3
    for split, label in of_split.items():
        targets_N[ROWS[split]] = label
    return zoo_of(targets_N, "classification", 5)


def one_to_test_on() -> Zoo:
    zoo = values()
    return dataclasses.replace(zoo, splits={**zoo.splits, "test": np.array([30])})


@pytest.mark.parametrize(
    ("zoo", "message"),
    [
        (values(train=0.5), r"split 'train' has 20 network\(s\), all with the target 0.5"),
        (values(val=1e-4), r"split 'val' has 6 network\(s\), all with the target 0.0001"),
        (values(test=0), r"split 'test' has 6 network\(s\), all with the target 0"),
        (one_to_test_on(), r"split 'test' has 1 network\(s\)"),
        (classes(train=2), "all 20 training networks are of the class '2'"),
        (values(train=np.linspace(0, 1e-35, 20)), r"standard deviation is 3.*e-36.*another unit"),
    ],
)
def test_targets_that_cannot_be_learnt_are_refused(zoo, message, tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "__init__", None)  # not reached
    with pytest.raises(UserError, match=message) as caught:
        probegen_jax.train(zoo, num_probes=2, workdir=tmp_path / "run", **SHORT)
    assert "\n" not in str(caught.value)
    assert "mine" in str(caught.value)
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_corrected_command_works_in_the_same_folder(tmp_path, capsys):
    with pytest.raises(UserError, match="nothing to tell apart"):
        probegen_jax.train(classes(train=2), num_probes=2, workdir=tmp_path, **SHORT)
    made = probegen_jax.train(
        classes(val=4, test=3), num_probes=2, workdir=tmp_path, **SHORT | {"batch_size": 64}
    )
    assert made.result["steps"] == 1
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert told == [
        "note: mine: no training network is of the class '3', '4': the 12 networks of it in val "
        "and test will all be predicted wrongly",
        "note: batch_size is 64, but there are 20 networks to train on: every step shows all of "
        "them",
    ]


def config_of(**changes):
    config = settings.defaults("mine")
    settings.change(config, changes)
    return config


TOO_MUCH = {
    "num_epochs": (2**31 - 1, r"num_epochs is 2,147,483,647, which makes 10,737,418,235 steps"),
    "num_seeds": (10**7, r"needs at least [\d,.]+ GiB on this machine, .*num_seeds \(10,000,000\)"),
    "num_probes": (10**9, r"GiB on this machine, which has .*num_probes"),
    "batch_size": (2**31 - 1, r"GiB on this machine, which has .*batch_size \(2,147,483,647\)"),
    "head_width": (10**8, r"GiB on this machine, which has .*parameters \(head_width"),
    "latent_dim": (10**8, r"GiB on this machine, which has .*parameters \(head_width"),
}


@pytest.mark.parametrize("key", TOO_MUCH)
def test_sizes_that_cannot_be_are_refused(key, monkeypatch):
    monkeypatch.setattr(memory, "_of_machine", lambda: 16 * 2**30)
    value, message = TOO_MUCH[key]
    config, zoo, mesh = config_of(**{"batch_size": 4} | {key: value}), classes(), make_mesh(1, 1)
    settings.check(config, PATH)
    with pytest.raises(UserError, match=message):
        checks.check_zoo(zoo, config, mesh)
        checks.check_memory(set_up(config, zoo), mesh)


@pytest.mark.parametrize("method", ["probegen", "uniform"])
def test_what_fits_is_not_refused(method, monkeypatch):
    """The estimate is below what a training takes: 0.27 million parameters, 128 probes."""
    monkeypatch.setattr(memory, "_of_machine", lambda: 2**25)
    config, zoo, mesh = config_of(method=method), classes(), make_mesh(32, 1)
    assert checks.check_zoo(zoo, config, mesh) != []  # the batch is larger than the zoo
    checks.check_memory(set_up(config, zoo), mesh)
    monkeypatch.setattr(memory, "_of_machine", lambda: 2**20)
    with pytest.raises(UserError, match=r"needs at least 0\.0 GiB on this machine"):
        checks.check_memory(set_up(config, zoo), mesh)


def test_of_seeds_in_turn_one_needs_memory(monkeypatch):
    config = config_of(readout="hidden", num_seeds=16, num_probes=1024, head_width=4)
    config.batch_size = 4096
    experiment, mesh = set_up(config, classes()), make_mesh(4096, 1)
    assert experiment.learner.seeds_in_turn
    monkeypatch.setattr(memory, "_of_machine", lambda: 2**28)
    checks.check_memory(experiment, mesh)
    together = dataclasses.replace(experiment.learner, seeds_in_turn=False)
    with pytest.raises(UserError, match=r"most of it, .* is for 1,024 values of batch_size"):
        checks.check_memory(dataclasses.replace(experiment, learner=together), mesh)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"seed": 2**31},
            "the last seed, seed . num_seeds - 1, is 2147483648; the most is 2147483647",
        ),
        ({"seed": 2**31 - 2, "num_seeds": 3}, "is 2147483648; the most is"),
        ({"num_epochs": 10**12}, "num_epochs is 1000000000000; give at most 2147483647"),
        ({"generator_depth": 10**10}, "generator_depth is 10000000000; give at most"),
        ({"head_depth": 3000}, "head_depth is 3000; give at most 100"),
        ({"generator_depth": 101}, "generator_depth is 101; give at most 100"),
        ({"learning_rate": float("inf")}, "learning_rate is inf; it must be above 0 and finite"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must be above 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; it must be above 0"),
        ({"eval_every": 0}, "eval_every is 0; give at least 1"),
        ({"checkpoint_every": -5}, "checkpoint_every is -5; give at least 1"),
        ({"checkpoint_dir": "foo://bar"}, "checkpoint_dir is 'foo://bar'; give a folder, or an"),
    ],
)
def test_numbers_out_of_range_are_told_before_anything_is_read(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        settings.check(config_of(**changes), PATH)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2**31 - 1},
        {"eval_every": 10**15, "checkpoint_every": 10**15},  # never
        {"head_depth": 100, "generator_depth": 100},
        {"checkpoint_dir": "gs://bucket/run"},
        {"checkpoint_dir": "elsewhere/run"},
    ],
)
def test_numbers_at_the_edge_are_taken(changes):
    settings.check(config_of(**changes), PATH)


@pytest.mark.parametrize("wanted", [-1, 10**6])
def test_a_cpu_is_not_a_million_devices(wanted):
    with pytest.raises(UserError, match=f"mesh.cpu_devices is {wanted}; give a number, .* 1024"):
        split_cpu(wanted, 32)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.28 TiB for an array"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
    ],
)
def test_memory_that_runs_out_is_told_in_a_line(error, capsys, monkeypatch):
    def main(argv):
        raise error

    monkeypatch.setattr(errors.user_cache, "keep_compiled", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        errors._run(main, ["train"])
    assert stopped.value.code == errors.EXIT_USER_ERROR
    told = capsys.readouterr().err
    assert told.startswith("error: out of memory (") and told.count("\n") == 1
    assert "lower batch_size" in told


@pytest.mark.parametrize(
    "targets",
    [np.arange(32) * 1e300, 1e9 + np.arange(32) * 0.1, np.arange(32) * 1e-60],
    ids=["too large", "too alike", "too small"],
)
def test_values_that_float32_cannot_tell_apart(targets, tmp_path):
    zoo = values()
    with pytest.raises(UserError, match="not to be told apart in float32; subtract what"):
        from_arrays("mine", zoo.spec, zoo.weights, targets, task="regression")
    lines = [f"{n}.pth,{target!r}" for n, target in enumerate(targets.tolist()) if target < 3e38]
    (tmp_path / "t.csv").write_text("\n".join(["path,target", *lines]))
    if len(lines) > 1:
        with pytest.raises(UserError, match=r"t\.csv: the targets, from .* float32"):
            read_csv(tmp_path / "t.csv", "regression")


@pytest.mark.parametrize("target", ["", "nan", "inf", "1e400", "-1e400", "high"])
def test_values_that_are_no_numbers(target, tmp_path):
    (tmp_path / "t.csv").write_text(f"path,target\na.pth,0.5\nb.pth,{target}\n")
    with pytest.raises(UserError, match=r"line 3: target .* of b\.pth is not a finite number"):
        read_csv(tmp_path / "t.csv", "regression")


def test_values_that_are_all_the_same_or_far_from_zero_are_read(tmp_path):
    zoo = values()
    for targets in (np.full(32, 0.1), 1000 + np.arange(32) * 0.1, np.arange(32) * 1e-30):
        made = from_arrays("mine", zoo.spec, zoo.weights, targets, task="regression")
        np.testing.assert_allclose(made.targets_N, targets, rtol=1e-6)


@pytest.mark.parametrize("share", ["val_share", "test_share"])
def test_shares_that_are_no_numbers(share):
    zoo = classes()
    with pytest.raises(UserError, match=f"{share}.* nan"):
        from_arrays(
            "mine",
            zoo.spec,
            zoo.weights,
            zoo.targets_N,
            task="classification",
            **{share: float("nan")},
        )
