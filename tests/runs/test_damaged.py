"""Run folders and models whose files were damaged: told in one line, mended, or harmless.

Never a stack trace, and never another result without a word.
"""

import collections
import contextlib
import io
import json

import damage
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probegen_jax import evaluate, train
from probegen_jax.errors import UserError
from probegen_jax.report.write import write_report
from probegen_jax.runs import exported
from probegen_jax.runs.experiment import load_run

_READ_BY_NOBODY = ("logs", "README", "report", "pictures")
_OF_JSON, _JSON = ("value", "delete", "add"), (".json", ".jsonl", "/metadata")
COMMANDS = ("evaluate", "train", "resume", "export", "model")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return damage.make(tmp_path_factory.mktemp("made"))


def files_of(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


class Fuzz:
    """Damages a copy of a run or a model, runs a command on it, and looks at what came."""

    def __init__(self, made, work):
        self.made, self.work, self.counts = made, work, collections.Counter()
        self.result = json.loads((made / "run" / "result.json").read_text())
        self.networks = load_run(made / "run").experiment.zoo
        self.values = self.predicted(made / "model")
        self.exported = (made / "model" / "model.safetensors").read_bytes()
        self.files = {
            name: [f for f in files_of(made / name) if not f.startswith(_READ_BY_NOBODY)]
            for name in ("run", "model")
        }

    def predicted(self, folder):
        return exported.load(folder).predict_rows(self.networks, np.arange(24)).values_SxNxO

    def try_one(self, command, draw_file, kind, seed):
        name = "model" if command == "model" else "run"
        folder = damage.copy(self.made / name, self.work / name)
        json_files = [file for file in self.files[name] if file.endswith(_JSON)]
        files = json_files if draw_file % 2 or kind in _OF_JSON else self.files[name]
        chosen = files[draw_file // 2 % len(files)]
        if not (folder / chosen).stat().st_size:
            kind = "binary"
        damage.damage(folder / chosen, kind, seed)
        if command == "resume" and chosen != "result.json":
            (folder / "result.json").unlink()
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                same = getattr(self, command)(folder)
        except UserError as error:
            assert str(error).strip()
            outcome = "detected"
        else:
            outcome = "harmless" if same else "detected"
            assert same or "other figures" in said.getvalue(), (command, chosen, kind, seed)
            if same and ("damaged" in said.getvalue() or "cannot be read" in said.getvalue()):
                outcome = "made again"
        self.counts[outcome] += 1

    def evaluate(self, folder):
        return evaluate.evaluate(folder, {})

    def train(self, folder):
        return train.train(damage.config(self.made), folder) == self.result

    def resume(self, folder):
        found = train.train(damage.config(self.made), folder)
        return {k: found[k] for k in ("seeds", "mean", "std")} == {
            k: self.result[k] for k in ("seeds", "mean", "std")
        }

    def export(self, folder):
        damage.shutil.rmtree(self.work / "out", ignore_errors=True)
        exported.export(load_run(folder), self.work / "out")
        return (self.work / "out" / "model.safetensors").read_bytes() == self.exported

    def model(self, folder):
        return np.array_equal(self.predicted(folder), self.values)


def fuzz(made, work, examples, capsys):
    tried = Fuzz(made, work)

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.sampled_from(COMMANDS),
        st.integers(0, 10**4),
        st.sampled_from(damage.KINDS),
        st.integers(0, 2**32),
    )
    def each(command, file, kind, seed):
        tried.try_one(command, file, kind, seed)

    each()
    with capsys.disabled():
        print(f"\ntried {tried.counts.total()}: {dict(tried.counts)}")
    assert tried.counts["detected"] > 0.1 * tried.counts.total()


def test_damage_of_any_kind(made, tmp_path, capsys):
    fuzz(made, tmp_path, 16, capsys)


@pytest.mark.slow
# Orbax gives up at the first damaged array, and leaves the reading of the others to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damage_of_any_kind_hundreds_of_times(made, tmp_path, capsys):
    fuzz(made, tmp_path, 600, capsys)


@pytest.fixture
def run(made, tmp_path):
    return damage.copy(made / "run", tmp_path / "run")


BAD = (b'{"seed": ', b"\x80\xff\0", b"[" * 100_000, b"[]", b"null", b"{}", b'{"seeds": {"0": 1}}')


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_a_file_of_another_shape_is_named(run, name):
    for content in BAD:
        (run / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}") as caught:
            load_run(run)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]"])
def test_what_a_checkpoint_says_of_itself_is_named(run, content):
    (path, *_) = sorted(run.rglob("_CHECKPOINT_METADATA"))
    path.write_bytes(content)
    with pytest.raises(
        UserError, match="cannot read a checkpoint's _CHECKPOINT_METADATA"
    ) as caught:
        load_run(run)
    assert "\n" not in str(caught.value) and str(path.parent.parent) in str(caught.value)


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda r: r["seeds"][1]["best"].update(val="high"),
            r"seeds: best: val is 'high'; it shou",
        ),
        (lambda r: r.pop("mean"), r"result\.json has no 'mean'; delete it, and the command"),
        (lambda r: r.update(metric="luck"), r"metric is 'luck'; it should be one of accuracy"),
        (lambda r: r.update(steps=10**12), r"steps is 1000000000000; it should be a whole number"),
        (lambda r: r.update(seconds=1.0), r"result\.json was changed after the training wrote it"),
    ],
)
def test_a_result_that_cannot_be_is_told_with_its_field(run, edit, message):
    change(run / "result.json", edit)
    with pytest.raises(UserError, match=message):
        load_run(run)
    with pytest.raises(UserError, match=message):
        evaluate.evaluate(run, {})


def test_evaluate_says_which_figure_was_changed(run, capsys):
    change(run / "result.json", lambda r: r["seeds"][1]["last"].update(test=0.99))
    assert not evaluate.evaluate(run, {})
    assert "seed 1, last, test: " in capsys.readouterr().out
    change(run / "result.json", lambda r: r.update(mean=0.99))
    assert not evaluate.evaluate(run, {})
    assert "mean: " in capsys.readouterr().out
    with pytest.raises(UserError, match=r"probegen_jax\.evaluate .* says in which figure"):
        load_run(run)


def test_a_config_that_was_changed_is_told(run):
    change(run / "config.json", lambda c: c.update(learning_rate=0.5, tensorboard=True))
    with pytest.raises(UserError, match=r"learning_rate \(0.0003 there, 0.5 here\); put back"):
        load_run(run)
    change(run / "config.json", lambda c: c.update(learning_rate=3e-4, num_probes="8"))
    with pytest.raises(UserError, match=r"config\.json: num_probes is '8'; it should be a whole"):
        load_run(run)
    change(run / "config.json", lambda c: c.update(num_probes=8, mesh="x"))
    with pytest.raises(UserError, match=r"mesh is 'x'; it should be settings by name: cpu_dev"):
        load_run(run)


def arrays(run, step):
    """The largest file of a checkpoint, which holds its arrays."""
    files = [p for p in (run / "checkpoints" / str(step)).rglob("*") if p.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def test_a_bit_that_flips_in_the_arrays_is_noticed_and_the_run_goes_on_before_it(made, run, capsys):
    steps = sorted(int(path.name) for path in (run / "checkpoints").iterdir())
    assert len(steps) == 2
    content = bytearray(arrays(run, steps[1]).read_bytes())
    content[len(content) // 2] ^= 4
    arrays(run, steps[1]).write_bytes(content)
    with pytest.raises(UserError, match=rf"cannot read the checkpoint .*{steps[1]} .*result\.json"):
        load_run(run)
    whole = json.loads((run / "result.json").read_text())
    (run / "result.json").unlink()
    assert train.train(damage.config(made), run)["seeds"] == whole["seeds"]
    assert f"step {steps[1]} is damaged; going on from" in capsys.readouterr().err
    first, again = load_run(made / "run"), load_run(run)
    for one, other in zip(
        *(map(np.asarray, damage.leaves(r.state)) for r in (first, again)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    for path in ("metrics.jsonl", "zoo.json"):
        assert (run / path).read_bytes() == (made / "run" / path).read_bytes()


def test_metrics_and_facts_of_the_zoo_are_made_again(made, run, capsys):
    (run / "metrics.jsonl").write_bytes(b'{"step": 1\n\xff')
    (run / "zoo.json").write_text("[")
    write_report([load_run(run)])
    assert "metrics.jsonl was damaged; it is written again" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_bytes() == (made / "run" / "metrics.jsonl").read_bytes()


def test_how_many_run_at_once_is_as_the_run_began(made, run, capsys):
    (run / "result.json").unlink()
    (run / "tuning.json").write_text('{"block_size": "all"}')
    train.train(damage.config(made), run)
    assert "tuning.json cannot be read; what it held is taken" in capsys.readouterr().err
    (run / "result.json").unlink()
    (run / "tuning.json").write_text('{"block_size": 4}')
    with pytest.raises(UserError, match=r"says block_size 4, but the run began with None; delete"):
        train.train(damage.config(made), run)


def test_a_changed_model_is_told(made, tmp_path):
    model = damage.copy(made / "model", tmp_path / "model")
    assert "data_dir" not in json.loads((model / "config.json").read_text())["settings"]
    change(model / "config.json", lambda c: c["network"].update(w0=31.0))
    with pytest.raises(UserError, match=r"was changed after the export"):
        exported.load(model)
    change(model / "config.json", lambda c: c["network"].update(w0=30.0))
    assert exported.load(model)
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"was changed after the export"):
        exported.load(model)


def test_a_run_is_looked_at_from_anywhere_and_flags_say_where_its_zoo_went(tmp_path, monkeypatch):
    damage.zoo(tmp_path / "zoo")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    train.train(damage.config(None, "zoo", "data"), "run")
    monkeypatch.chdir(tmp_path / "other")
    assert evaluate.evaluate(tmp_path / "run", {})
    (tmp_path / "zoo").rename(tmp_path / "moved")
    message = r"networks_dir=.*zoo, targets_csv=.* --networks_dir=PATH --targets_csv=PATH$"
    with pytest.raises(UserError, match=message):
        load_run(tmp_path / "run")
    # As older versions wrote it.
    change(tmp_path / "run" / "config.json", lambda c: c.update(networks_dir="zoo"))
    with pytest.raises(UserError, match=r"networks_dir=zoo, "):
        load_run(tmp_path / "run")
    places = [f"--networks_dir={tmp_path}/moved", f"--targets_csv={tmp_path}/moved/targets.csv"]
    evaluate.main(["evaluate", str(tmp_path / "run"), *places])
