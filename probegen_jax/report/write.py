"""A report's files: the page, and the pictures in the run folder."""

import pathlib
import sys
import tempfile
from collections.abc import Sequence

from probegen_jax.errors import UserError
from probegen_jax.files import write_text
from probegen_jax.report import charts, figures, page, sections
from probegen_jax.report.findings import Findings, find
from probegen_jax.runs.experiment import Run
from probegen_jax.training.records import TensorBoard

PAGE = "report.html"
PICTURES = "pictures"


def write_report(runs: Sequence[Run], path: pathlib.Path | None = None) -> pathlib.Path:
    """Writes one page for runs, and each run's pictures into its folder; returns the page's path.

    Args:
      path: of the page; `report.html` in the folder of the only run if None.

    Raises:
      UserError: the page or a picture cannot be written.
    """
    path = page_path([run.folder for run in runs], path)
    findings = [find(run) for run in runs]
    try:
        for run in findings:
            write_pictures(run)
        write_text(path, page.render(findings))
    except OSError as error:
        raise _unwritable(error.filename or path, error) from error
    return path


def page_path(folders: Sequence[pathlib.Path], path: pathlib.Path | None) -> pathlib.Path:
    """Where the page goes, its folder made; see `write_report`."""
    if path is None:
        if len(folders) > 1:
            raise UserError(f"a report of {len(folders)} runs needs a place: give --out=FILE.html")
        path = folders[0] / PAGE
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the report a file, as in --out=report.html")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def _unwritable(path: object, error: OSError) -> UserError:
    return UserError(
        f"cannot write the report to {path} ({error.strerror}); choose another with --out=FILE"
    )


def after_training(run: Run) -> None:
    """Writes the report of a run whose training has ended; if that fails, only prints why.

    By then the result is written, and no picture is worth losing it.
    """
    try:
        write_report([run])
    except Exception as error:  # anything at all: see above
        what = " ".join(str(error).split()) or type(error).__name__
        print(
            f"warning: the report could not be drawn ({what}); the result is safe in "
            f"{run.folder / 'result.json'}; try again with python -m probegen_jax.report "
            f"{run.folder}",
            file=sys.stderr,
        )


def write_pictures(run: Findings) -> None:
    """A run's pictures, in its folder: PNG for a slide, SVG for a paper."""
    figures.draw_probes(run.folder / "probes.png", run.probes_after, run.planes)
    figures.draw_curves(run.folder / "curves.png", run.curves)
    drawn = {"predictions": sections.prediction_chart(run)}
    for group, charts_of in _CHARTS.items():
        for name, chart in charts_of(run).items():
            drawn[f"{group}-{name.replace(' ', '-')}"] = chart
    folder = run.folder / PICTURES
    folder.mkdir(exist_ok=True)
    for name, chart in drawn.items():
        write_text(folder / f"{name}.svg", charts.standalone(chart))
    if run.config.get("tensorboard"):
        _show_on_board(run)


_CHARTS = {
    "curves": sections.curve_charts,
    "probes": sections.probe_charts,
    "importance": sections.importance_charts,
    "wrong": sections.wrong_charts,
}


def _show_on_board(run: Findings) -> None:
    """The probes before and after training, for TensorBoard."""
    board = TensorBoard(run.folder / "tensorboard")
    with tempfile.TemporaryDirectory() as folder:
        picture = pathlib.Path(folder) / "probes.png"
        for step, probes in ((0, run.probes_before), (run.result["steps"], run.probes_after)):
            figures.draw_probes(picture, probes, run.planes)
            board.picture("probes", picture, step)
    board.close()
