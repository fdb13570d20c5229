"""A report's files: the page, and the pictures in the run folder."""

import contextlib
import pathlib
import sys
import tempfile
from collections.abc import Sequence

from probegen_jax.errors import UserError
from probegen_jax.files import write_text
from probegen_jax.report import charts, figures, page, sections
from probegen_jax.report.findings import Findings, find
from probegen_jax.runs import records
from probegen_jax.runs.experiment import Run
from probegen_jax.training.records import TensorBoard

PAGE = "report.html"
PROBES, CURVES, PICTURES = "probes.png", "curves.png", "pictures"


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
        for run in runs:
            if run.result is not None:
                records.mend_metrics(run.folder, run.records)
        drawn = [write_pictures(run) for run in findings]
        _replace_page(path, page.render(findings, drawn[0] if len(runs) == 1 else ()))
    except OSError as error:
        raise _unwritable(error.filename or path, error) from error
    return path


def missing(folder: pathlib.Path) -> list[str]:
    """Of the report of a finished run, the names of what is not in its folder."""
    try:
        text = (folder / PAGE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [PAGE]
    if not page.is_of_finished(text):
        return [PAGE]
    pictures = page.pictures_of(text)
    names = [PROBES, CURVES] if pictures is None else pictures
    return [name for name in names if not (folder / name).is_file()]


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


def _replace_page(path: pathlib.Path, text: str) -> None:
    """Writes the page; pictures go that only the one before had, of another step of the run."""
    with contextlib.suppress(OSError):  # there was none
        before = page.pictures_of(path.read_text(encoding="utf-8", errors="replace"))
        for name in set(before or ()) - set(page.pictures_of(text) or ()):
            if pathlib.PurePath(name).parent.name == PICTURES and ".." not in name:
                (path.parent / name).unlink(missing_ok=True)
    write_text(path, text)


def write_pictures(run: Findings) -> list[str]:
    """A run's pictures, in its folder: PNG for a slide, SVG for a paper; returns their paths."""
    if len(run.probes_after):
        figures.draw_probes(run.folder / PROBES, run.probes_after, run.planes)
    figures.draw_curves(run.folder / CURVES, run.curves)
    drawn = {"predictions": sections.prediction_chart(run)}
    for group, charts_of in _CHARTS.items():
        for name, chart in charts_of(run).items() if page.has(run, group) else ():
            drawn[f"{group}-{name.replace(' ', '-')}"] = chart
    (run.folder / PICTURES).mkdir(exist_ok=True)
    written = {f"{PICTURES}/{name}.svg": chart for name, chart in drawn.items()}
    for path, chart in written.items():
        write_text(run.folder / path, charts.standalone(chart))
    if run.config.get("tensorboard") and len(run.probes_after):
        _show_on_board(run)
    return [*([PROBES] if len(run.probes_after) else []), CURVES, *written]


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
