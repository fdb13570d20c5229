"""Reports, opened in a real browser: nothing missing, nothing asked of the network."""

import dataclasses
import functools
import importlib.util
import io
import json
import re
import struct
import sys
import xml.etree.ElementTree as ET

import chromium
import numpy as np
import pytest
from conftest import REPO
from PIL import Image

from probegen_jax import settings, train
from probegen_jax.errors import UserError
from probegen_jax.factory.builtin import digits_cnn
from probegen_jax.factory.cnn import search_space
from probegen_jax.report import charts, findings, write
from probegen_jax.report.__main__ import main
from probegen_jax.report.page import render
from probegen_jax.runs import experiment
from probegen_jax.training.records import TensorBoard

SMALL = {
    "digits": ("--config.num_epochs=2", "--config.eval_every=30"),
    "digits_cnn": ("--config.num_epochs=4", "--config.eval_every=2", "--config.batch_size=8"),
}


TENSORBOARD = importlib.util.find_spec("tensorboardX") is not None


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits_dir):
    """A finished run of each built-in zoo, by name; both are named so that HTML must be escaped."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        tiny = {"networks_per_architecture": 4, "steps": 12, "batch_size": 8}
        space = search_space.read("digits_cnn") | tiny
        load = functools.partial(digits_cnn.load, number=12, space=space)
        patch.setattr(digits_cnn, "load", load)
        for name, arg, seeds in (("digits", "probegen,16", 2), ("digits_cnn", "probegen,6", 1)):
            values = settings.parse(
                [
                    "train",
                    f"--config={REPO}/configs/{name}.py:{arg}",
                    f"--config.data_dir={digits_dir}",
                    f"--config.num_seeds={seeds}",
                    f"--config.tensorboard={TENSORBOARD and name == 'digits'}",
                    *SMALL[name],
                ],
                "",
            )
            train.train(values.config, str(folder / f"{name} <&>"))
        yield {name: folder / f"{name} <&>" for name in SMALL}


@pytest.fixture(scope="module")
def run(runs):
    """The digits run, loaded."""
    return experiment.load_run(runs["digits"])


@pytest.fixture(scope="module")
def found(run):
    return findings.find(run)


@pytest.fixture(scope="module")
def page():
    program = chromium.find()
    if program is None:
        pytest.skip(f"none of {', '.join(chromium.NAMES)} is installed (apt-get install chromium)")
    with chromium.browser(program) as page:
        yield page


# Sizes of every picture as it is laid out, and of every image within an SVG once it is decoded.
PICTURES = """Promise.all([...document.querySelectorAll("svg")].map(async svg => {
  const boxes = [svg.getBoundingClientRect()];
  const decoded = [];
  for (const image of svg.querySelectorAll("image")) {
    const loaded = new Image();
    loaded.src = image.href.baseVal;
    await loaded.decode();
    decoded.push(loaded.naturalWidth);
  }
  const marks = svg.querySelectorAll("polyline,circle,rect.cell,rect.bar,image").length;
  return [boxes[0].width, boxes[0].height, marks, Math.min(1e9, ...decoded),
          svg.getAttribute("aria-label").length];
}))"""


def check(page, path, pictures):
    for width, dark in ((1200, False), (390, False), (1200, True)):
        page.open(path, width, dark=dark)
        assert page.problems == []
        asked = [url for url in page.requests if not url.startswith("data:")]
        assert asked == [path.resolve().as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") == width
        found = page.evaluate(PICTURES)
        assert len(found) == pictures
        for wide, high, marks, decoded, label in found:
            assert min(wide, high) > 30 and marks > 0 and decoded > 0 and label > 10
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", background)[:3]))
        assert brightness < 150 if dark else brightness > 600


def test_the_report_of_a_digits_run(page, runs):
    # Curves, before and after, after over others, confusion, worst, importance.
    check(page, runs["digits"] / "report.html", 2 + 2 + 4 + 1 + 12 + 2)
    text = page.evaluate("document.body.innerText")
    assert "digits <&>" in text
    result = json.loads((runs["digits"] / "result.json").read_text())
    assert f"{100 * result['mean']:.1f}\N{NO-BREAK SPACE}%" in text
    assert result["environment"]["jax"] in text and "learning_rate" in text


def test_the_report_of_a_digits_cnn_run(page, runs):
    check(page, runs["digits_cnn"] / "report.html", 2 + 2 + 1 + 2)
    assert "Kendall's τ" in page.evaluate("document.body.innerText")


def test_the_command_writes_where_it_is_told(runs, tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    main(["report", str(runs["digits"]), f"--out={out}"])
    assert capsys.readouterr().out == f"wrote {out}\n"
    assert "</html>" in out.read_text()


def test_runs_side_by_side(page, found, tmp_path):
    out = tmp_path / "both.html"
    out.write_text(render([found, dataclasses.replace(found, name="another")]))
    page.open(out, 1200)
    assert page.problems == []
    left, right = page.evaluate(
        '[...document.querySelectorAll("#probes .run")].map(e => e.getBoundingClientRect())'
        ".map(box => [box.left, box.top])"
    )
    assert left[1] == right[1] and left[0] < right[0]
    page.open(out, 390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_pictures_beside_a_run(runs):
    for name, folder in runs.items():
        for picture in ("probes.png", "curves.png"):
            pixels = np.asarray(Image.open(folder / picture).convert("RGB"))
            assert min(pixels.shape[:2]) > 100 and pixels.std() > 10
        drawn = {path.stem for path in (folder / "pictures").glob("*.svg")}
        expected = {"predictions", "curves-loss", "curves-validation", "probes-before"}
        assert drawn >= expected | {"probes-after", "importance-bars", "importance-top"}, name
        for path in (folder / "pictures").iterdir():
            assert ET.parse(path).getroot().tag.endswith("svg")


@pytest.mark.skipif(not TENSORBOARD, reason="tensorboardX is not installed")
def test_tensorboard_gets_scalars_the_config_and_pictures(runs):
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in (runs["digits"] / "tensorboard").iterdir():
        data, place = path.read_bytes(), 0
        while place < len(data):  # length, its checksum, an event, its checksum
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += length + 16
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value
    lines = (runs["digits"] / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        loss = found["train_loss"][record["step"]].simple_value
        assert loss == pytest.approx(np.mean(record["train_loss"]))
        second = found["train_loss/seed_1"][record["step"]].simple_value
        assert second == pytest.approx(record["train_loss"][1])
    assert sorted(found["val_accuracy"]) == [30, 60, 90]
    assert sorted(found["probes"]) == [0, 90]
    picture = Image.open(io.BytesIO(found["probes"][90].image.encoded_image_string))
    assert np.asarray(picture.convert("RGB")).std() > 10
    assert b"learning_rate: 0.002" in found["config/text_summary"][0].tensor.string_val[0]


def test_without_tensorboardx_the_user_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-tensorboard.txt"):
        TensorBoard(tmp_path)


def test_what_a_report_says_is_what_the_run_did(runs, run, found):
    zoo, result = run.experiment.zoo, json.loads((runs["digits"] / "result.json").read_text())
    predicted = np.argmax(found.outputs_NxO, axis=1)
    rows = zoo.splits["test"]
    assert np.mean(predicted == zoo.targets_N[rows]) == pytest.approx(
        result["seeds"][0]["last"]["test"]
    )
    errors = [each.error for each in found.wrong]
    assert errors == sorted(errors, reverse=True) and len(errors) == 12
    places = {row: n for n, row in enumerate(rows.tolist())}
    for each in found.wrong:
        assert each.target == zoo.targets_N[each.row] != each.predicted
        assert each.predicted == predicted[places[each.row]]
    assert found.importance.metric == pytest.approx(result["seeds"][0]["last"]["val"])
    # A run starts from its seed: the probes before training are those of a fresh model.
    fresh = run.experiment.learner.init(run.experiment.keys[0])
    np.testing.assert_allclose(
        found.probes_before, run.experiment.learner.probes(fresh)[0], atol=1e-6
    )
    assert np.abs(found.probes_after - found.probes_before).max() > 0.01


def test_leaving_out_a_probe_is_replacing_its_responses_by_their_mean(run, found):
    import jax
    from flax import nnx

    found = found.importance
    learner, zoo = run.experiment.learner, run.experiment.zoo
    one = jax.tree.map(lambda leaf: leaf[0], (run.state.params, run.state.fixed))
    model = nnx.merge(learner.graphdef, *one)
    rows = zoo.splits["val"]
    responses = np.array(
        zoo.spec.respond(zoo.spec.take(zoo.weights, jax.numpy.asarray(rows)), model.generator())
    )
    responses[:, 3] = responses[:, 3].mean(axis=0)
    outputs = model.head(jax.numpy.asarray(responses))
    loss = float(np.mean(learner.loss(outputs, jax.numpy.asarray(zoo.targets_N[rows]))))
    assert loss - found.loss == pytest.approx(found.loss_P[3], abs=1e-5)


def test_a_report_that_cannot_be_drawn_loses_nothing(tmp_path, digits_dir, monkeypatch, capsys):
    def fail(run):
        raise RuntimeError("no ink")

    monkeypatch.setattr(write, "find", fail)
    values = settings.parse(
        [
            "train",
            f"--config={REPO}/configs/digits.py:vanilla,4",
            f"--config.data_dir={digits_dir}",
            "--config.num_epochs=1",
        ],
        "",
    )
    result = train.train(values.config, str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    assert not (tmp_path / "run" / "report.html").exists()
    captured = capsys.readouterr()
    assert captured.err.startswith("warning: the report could not be drawn (no ink); the result is")


def test_an_unfinished_run_is_shown_as_such(run, found):
    page = render([dataclasses.replace(found, result=findings.unfinished(run))])
    assert "Not finished: at step 90" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no run given"),
        (["{tmp}/none"], "none is not a run folder: it has no config.json"),
        (["{digits}", "{digits}"], "a report of 2 runs needs a place: give --out"),
        (["{digits}", "--out={tmp}"], "is a folder; give the report a file"),
        (["{digits}", "--out=/proc/none/report.html"], "cannot write the report to /proc/none"),
        (["{digits}", "--ouch=3"], "Unknown command line flag 'ouch'"),
    ],
)
def test_mistakes_are_told(arguments, message, runs, tmp_path):
    places = {"tmp": tmp_path, "digits": runs["digits"]}
    with pytest.raises(UserError, match=re.escape(message)):
        main(["report", *(argument.format(**places) for argument in arguments)])


def test_charts_bear_odd_values():
    nothing = charts.lines("loss", [("seed 0", [1, 2], [float("nan"), 0.0])], log=True)
    assert "no values" in nothing
    assert "<polyline" in charts.lines("loss", [("seed 0", [1], [2.0])])
    assert "<polyline" in charts.lines("loss", [("s", [1, 2], [3.0, 3.0])], log=True)
    assert "no finite values" in charts.scatter("p", np.array([np.nan]), np.array([1.0]))
    for low, high in ((0, 1), (-3.2, 7e5), (0.61, 0.6101)):
        ticks = charts.ticks(low, high)
        assert 2 <= len(ticks) <= 7 and low - 1e-9 <= ticks[0] and ticks[-1] <= high + 1e-9
