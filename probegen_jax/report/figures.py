"""The pictures of a run folder. The only module that imports matplotlib."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Array, Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from probegen_jax.files import replacing
from probegen_jax.method.generators.registry import METHODS
from probegen_jax.zoo.zoo import Zoo

_METHOD_COLORS = ("#e4572e", "#7a8b99", "#c9b458", "#8a6fb0")


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes a PNG: it is whole or not there."""
    FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")


def draw_probes(
    path: pathlib.Path, zoo: Zoo, probes: Float[Array, "P ..."] | Float[np.ndarray, "P ..."]
) -> None:
    """The probes: images as such, coordinates over what a few of the zoo's test networks draw.

    Args:
      path: of the PNG.
      zoo: that the probes are for.
      probes: of one seed.
    """
    if probes.ndim == 4:
        draw_image_probes(path, probes)
        return
    rows = zoo.splits["test"]
    _, first = np.unique(zoo.targets_N[rows], return_index=True)
    shown = rows[np.sort(first)[:5]]  # of different targets
    images = zoo.spec.render(zoo.read(shown), *(zoo.image_shape or (64, 64)))
    if images is None or zoo.spec.plane is None:
        draw_coordinates(path, probes)
        return
    titles = [f"a network of target {zoo.targets_N[row]:.4g}" for row in shown]
    points = np.asarray(probes) if zoo.spec.plane == "xy" else np.asarray(probes)[:, ::-1]
    draw_inr_probes(path, images, titles, points)


def draw_inr_probes(
    path: pathlib.Path,
    images: Float[np.ndarray, "N H W C"],
    titles: Sequence[str],
    probes: Float[np.ndarray, "P 2"],
) -> None:
    """Where the probes lie on the image plane, over what a few networks draw there.

    Args:
      path: of the PNG.
      images: what the networks draw, in [0, 1]; one panel each.
      titles: of the panels.
      probes: coordinates, the column first.
    """
    # A probe outside the image is seen too, but a stray one must not shrink the picture.
    reach = float(np.clip(np.abs(probes).max() * 1.05, 1.2, 1.8))
    height, width = images.shape[1:3]
    # Coordinates -1 and 1 are the centres of the outer pixels.
    right, bottom = 1 + 1 / max(width - 1, 1), 1 + 1 / max(height - 1, 1)
    figure = Figure(figsize=(2.1 * len(titles), 2.4))
    for panel, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(1, len(titles), panel + 1)
        axes.imshow(image.squeeze(), cmap="gray", extent=(-right, right, bottom, -bottom))
        axes.scatter(*probes.T, s=9, c="#ff5a36", edgecolors="white", linewidths=0.4)
        axes.set(xlim=(-reach, reach), ylim=(reach, -reach), xticks=[-1, 1], yticks=[-1, 1])
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=6, length=2)
        axes.set_facecolor("#e8e8ec")
    save(figure, path)


def draw_coordinates(
    path: pathlib.Path, probes: Float[Array, "P D"] | Float[np.ndarray, "P D"]
) -> None:
    """How the probes are spread along each coordinate, where these are not those of a plane.

    Args:
      path: of the PNG.
      probes: of one seed.
    """
    probes = np.asarray(probes)
    number = probes.shape[1]
    figure = Figure(figsize=(2.6 * number, 2.4))
    for d in range(number):
        axes = figure.add_subplot(1, number, d + 1)
        axes.hist(probes[:, d], bins=24, color="#ff5a36")
        axes.set_title(f"coordinate {d}", fontsize=9)
    save(figure, path)


def draw_image_probes(
    path: pathlib.Path, probes: Float[Array, "P H W C"] | Float[np.ndarray, "P H W C"]
) -> None:
    """The probes as a sheet of images, sixteen in a row, at most eight rows.

    Args:
      path: of the PNG.
      probes: on any scale; all are drawn with the same one, their least value dark.
    """
    images = np.asarray(probes)[:128]
    least, most = images.min(), images.max()
    images = (images - least) / max(most - least, np.finfo(np.float32).tiny)
    images = np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images[..., :3]
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1)
    columns = min(16, len(framed))
    framed = np.pad(framed, ((0, -len(framed) % columns), *[(0, 0)] * 3), constant_values=1)
    _, height, width, _ = framed.shape
    sheet = framed.reshape(-1, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    sheet = sheet.reshape(-1, columns * width, 3)
    figure = Figure(figsize=(10, 10 * sheet.shape[0] / sheet.shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet, interpolation="nearest")
    axes.set_axis_off()
    save(figure, path)


def draw_curves(path: pathlib.Path, records: Sequence[dict[str, Any]], metric: str) -> None:
    """Training loss and validation metric against the step, a line per seed.

    Args:
      path: of the PNG.
      records: of `metrics.jsonl`.
      metric: name of the validation metric.
    """
    figure = Figure(figsize=(8, 3))
    colors = matplotlib.colormaps["tab10"].colors
    for panel, (key, label) in enumerate(
        (("train_loss", "training loss"), (f"val_{metric}", f"validation {metric}"))
    ):
        axes = figure.add_subplot(1, 2, panel + 1)
        steps = [record["step"] for record in records if key in record]
        values = np.array([record[key] for record in records if key in record])
        for seed in range(values.shape[1] if values.ndim == 2 else 0):
            axes.plot(steps, values[:, seed], lw=1, color=colors[seed % 10], label=f"seed {seed}")
        if key == "train_loss":
            axes.set_yscale("log")
        axes.set(xlabel="step", title=label)
        axes.grid(alpha=0.3)
        if 1 < values.shape[-1] <= 10:
            axes.legend(fontsize=7)
    save(figure, path)


def draw_grid(path: pathlib.Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Bars of the reproduction grid, a panel for each zoo, the published figures beside.

    Args:
      path: of the PNG.
      rows: of `results.csv`, with text as there; those that are not done make no bar.
    """
    done = [row for row in rows if row["status"] == "done"]
    zoos = list(dict.fromkeys(row["zoo"] for row in done))
    colors = dict(zip(METHODS, itertools.cycle(_METHOD_COLORS)))
    figure = Figure(figsize=(3.4 * len(zoos), 3.2))
    for panel, zoo in enumerate(zoos):
        axes = figure.add_subplot(1, len(zoos), panel + 1)
        shown = [row for row in done if row["zoo"] == zoo]
        means = [float(row["test_mean"]) for row in shown]
        deviations = [float(row["test_std"]) for row in shown]
        positions = range(len(shown))
        axes.bar(
            positions,
            means,
            yerr=deviations if any(deviations) else None,
            capsize=3,
            color=[colors.get(row["method"], "#404040") for row in shown],
        )
        published = [float(row["published"] or "nan") for row in shown]
        axes.scatter(positions, published, marker="D", s=30, c="black", zorder=3, label="published")
        for position, mean, deviation in zip(positions, means, deviations, strict=True):
            axes.annotate(
                f"{mean:.3f}",
                (position, mean + deviation),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=7,
            )
        names = [f"{row['method']}\n{row['num_probes']}".replace("_", "\n") for row in shown]
        axes.set_xticks(positions, names, fontsize=7)
        # Zoomed in on the bars' ends, for all are much alike.
        values = [v for v in (*means, *published) if np.isfinite(v)]
        room = max(max(values) - min(values), 0.02)
        axes.set_ylim(min(values) - room / 2 - max(deviations), max(values) + room / 3)
        axes.set_title(f"{zoo}: test {shown[0]['metric'].replace('_', ' ')}", fontsize=9)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        if np.isfinite(published).any():
            axes.legend(fontsize=7)
    save(figure, path)
