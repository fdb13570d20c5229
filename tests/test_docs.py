"""Code in the documentation runs as written; the pages build without a warning."""

import ast
import importlib
import json
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys

import pytest
from conftest import REPO

DOCS = REPO / "docs"
# Blocks fenced as `console` or `text` are to be read, not run.
RUN = ("python", "bash")


def blocks(path: pathlib.Path) -> list[tuple[str, str]]:
    found = re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    return [(language, code) for language, code in found if language in RUN]


def run_page(path: pathlib.Path) -> None:
    """Runs a page's blocks one after the other, as a reader would who copies them."""
    names: dict[str, object] = {}
    for language, code in blocks(path):
        if language == "python":
            exec(compile(code, str(path), "exec"), names)
            continue
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if not words:
                continue
            python, dash_m, module, *arguments = words
            assert (python, dash_m) == ("python", "-m"), line
            loaded = importlib.import_module(module)
            if not hasattr(loaded, "main"):
                loaded = importlib.import_module(f"{module}.__main__")
            loaded.main([module, *arguments])


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty folder to be in, with the configs, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "configs").symlink_to(REPO / "configs")
    return tmp_path


def test_zoos(empty, capsys):
    pytest.importorskip("torch")
    run_page(DOCS / "zoos.md")
    shown = capsys.readouterr().out
    assert "my_zoo: 40 networks of 8,707 weights" in shown
    assert "mine: 100 networks of 1,185 weights" in shown


def test_extending(empty, capsys, monkeypatch):
    from probegen_jax.method.generators.registry import METHODS
    from probegen_jax.method.readouts.registry import READOUTS
    from probegen_jax.networks.registry import FAMILIES

    for known, name in ((METHODS, "sphere"), (FAMILIES, "shallow"), (READOUTS, "mean")):
        monkeypatch.setitem(known, name, None)  # what the page adds is gone afterwards
        del known[name]
    found = blocks(DOCS / "extending.md")
    assert len(found) == 6
    assert max(code.count("\n") for _, code in found) <= 40
    script = empty / "extending.py"
    script.write_text("\n".join(code for _, code in found))
    runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().out
    for name in ("ProbeGen", "exported", "Flax", "sphere", "mean readout"):
        scores = re.search(rf"^{name}: (.*)", shown, re.MULTILINE)[1]
        assert all(0.7 < float(score) <= 1 for score in re.findall(r"\d\.\d+", scores)), shown
    assert len(re.findall(r"\b1\.\s", shown[shown.index("sphere:") :])) >= 7


def test_the_readme_in_python(empty, capsys):
    (code,) = [code for language, code in blocks(REPO / "README.md") if language == "python"]
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["again"].result == names["run"].result
    assert "128 on mine: 70 networks" in capsys.readouterr().out


@pytest.mark.slow
def test_build(empty, capsys):
    run_page(DOCS / "build.md")
    shown = capsys.readouterr().out
    assert "photos_inr_built: 60 networks of 1,185 weights" in shown
    assert "test accuracy" in shown


@pytest.fixture
def trained(empty, digits_dir):
    """What results.md talks of: two runs in runs/, and a network in a file."""
    pytest.importorskip("torch")
    from probegen_jax import settings, train
    from probegen_jax.factory.builtin import digits
    from probegen_jax.networks.options import ReadOptions
    from probegen_jax.zoo.files import inr_files, torch_files

    (empty / "cache").mkdir()
    (empty / "cache" / "probegen_jax").symlink_to(digits_dir)
    for method in ("probegen", "vanilla"):
        argv = ["train", f"--config=configs/digits.py:{method}", "--config.num_epochs=2"]
        config = settings.parse([*argv, "--config.report=False"], "").config
        train.train(config, f"runs/digits-{method}-128")
    network = tuple({k: v[0] for k, v in layer.items()} for layer in digits.load().weights)
    torch_files.save_inr(pathlib.Path("my_network.pth"), inr_files.to_state(network, ReadOptions()))
    return empty


@pytest.mark.slow
def test_results(trained, capsys):
    run_page(DOCS / "results.md")
    shown = capsys.readouterr().out
    for name in ("report.html", "both.html", "predictions.csv", "models/digits: model.safetensors"):
        assert f"{name}" in shown
    assert "240 networks predicted, 0 not" in shown
    assert "(2, 10)" in shown and "gone.pth" not in shown
    assert "cannot be read (No such file or directory)" in shown


def test_every_page_with_code_is_run():
    tests = [path.read_text() for path in (REPO / "tests").rglob("test_*.py")]
    for path in DOCS.glob("*.md"):
        if blocks(path):
            assert any(path.name in text for text in tests), path


def test_the_table_of_settings_is_current():
    command = [sys.executable, DOCS / "settings.py", "--check"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_pictures_are_small_and_there():
    pages = [*DOCS.glob("*.md"), REPO / "README.md"]
    named = {
        (path.parent / target).resolve()
        for path in pages
        for target in re.findall(r"!\[[^]]*\]\(([^):]+)\)", path.read_text())
    }
    assert all(path.is_file() for path in named), [p for p in named if not p.is_file()]
    for path in DOCS.rglob("*"):
        if path.suffix in (".png", ".svg", ".ipynb"):
            assert path.stat().st_size <= 300_000, path


def test_the_pages_build_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", DOCS, tmp_path]
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    for page in ("index", "method", "settings", "results", "quickstart", "api"):
        assert (tmp_path / f"{page}.html").stat().st_size > 5_000
    assert (
        'id="probegen_jax.runs.predictor.Predictor.predict"' in (tmp_path / "api.html").read_text()
    )


def test_what_the_documentation_imports_is_there():
    """Quick, since it runs nothing else; the pages and the notebook are run by slow tests."""
    code = [text for path in DOCS.glob("*.md") for kind, text in blocks(path) if kind == "python"]
    cells = json.loads((DOCS / "quickstart.ipynb").read_text())["cells"]
    code += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    imports = [
        ast.unparse(node)
        for text in code
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert len(imports) > 20
    for line in imports:
        try:
            exec(line, {})
        except ModuleNotFoundError as error:
            if error.name in {"torch", "IPython"}:  # not everywhere
                continue
            raise


@pytest.mark.slow
def test_the_notebook_runs_as_written(empty, digits_dir, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    (empty / "cache").mkdir()
    (empty / "cache" / "probegen_jax").symlink_to(digits_dir)
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setenv("IPYTHONDIR", str(empty / "ipython"))
    (empty / "docs").mkdir()
    notebook = nbformat.read(DOCS / "quickstart.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": str(empty / "docs")}}
    )
    client.execute()
    shown = json.dumps(notebook.cells, ensure_ascii=False)
    accuracy = float(re.search(r"test accuracy (0\.\d+)\\n", shown)[1])
    assert accuracy > 0.8
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert re.search(r"runs/one_network\.safetensors,\d,\d", shown)
    assert (empty / "runs" / "quickstart" / "report.html").is_file()
