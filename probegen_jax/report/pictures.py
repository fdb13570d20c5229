"""Pictures inside SVG and HTML: images as PNG data, probes as points over what networks draw."""

import base64
import html
import io

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from probegen_jax.report import charts
from probegen_jax.report.charts import Number, mark
from probegen_jax.report.drawings import Drawing, View

_SIDE = 200  # of a plane, in units of its drawing
_GAP = 8  # between views of one network


def png_data(image_HxWxC: Float[np.ndarray, "H W C"]) -> str:
    """An image with values in [0, 1] as a `data:` address; two or four channels end in opacity."""
    image = np.clip(np.nan_to_num(image_HxWxC), 0, 1)
    image = image[..., 0] if image.shape[-1] == 1 else image[..., :4]
    buffer = io.BytesIO()
    Image.fromarray((image * 255).round().astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def sheet(
    images_PxHxWxC: Float[np.ndarray, "P H W C"], columns: int = 16
) -> Float[np.ndarray, "h w c"]:
    """Images beside each other in one, on a scale that all share, the least value dark.

    Returns:
      Gray or colour, and opacity: nothing is seen between the images.
    """
    least, most = float(np.nanmin(images_PxHxWxC)), float(np.nanmax(images_PxHxWxC))
    images = (images_PxHxWxC - least) / max(most - least, float(np.finfo(np.float32).tiny))
    images = images[..., : 1 if images.shape[-1] < 3 else 3]
    images = np.concatenate([images, np.ones_like(images[..., :1])], axis=-1)
    gap = max(1, images.shape[1] // 12)
    columns = min(columns, len(images))
    framed = np.pad(images, ((0, -len(images) % columns), (0, gap), (0, gap), (0, 0)))
    rows = framed.reshape(-1, columns, *framed.shape[1:])
    return np.vstack([np.hstack(row) for row in rows])


def sheet_svg(images_PxHxWxC: Float[np.ndarray, "P H W C"], title: str, columns: int = 16) -> str:
    """A sheet of images with a title, their pixels left as they are."""
    image, number, top = sheet(images_PxHxWxC, columns), len(images_PxHxWxC), 28.0
    width = 480.0 * min(1, number / columns)  # few probes are no reason for large pixels
    height = width * image.shape[0] / image.shape[1]
    body = charts.text(0, 17, title, css="title") + _image(image, 0.0, top, width, height)
    return charts.svg(body, f"{title}: {number} images", 480, top + height)


def confusion_svg(title: str, counts_CxC: Int[np.ndarray, "C C"], classes: int, right: int) -> str:
    """A confusion matrix of many classes as a picture, a pixel for each or for some in a row.

    Args:
      counts_CxC: of networks by true class (row) and predicted class (column).
    """
    shares = counts_CxC / np.maximum(counts_CxC.sum(axis=1, keepdims=True), 1)
    image = np.stack([np.ones_like(shares), 0.06 + 0.94 * shares], axis=-1).astype(np.float32)
    image[..., 0] = 0.5  # gray that is seen in light and dark
    side, top = 400.0, 52.0
    body = charts.text(0, 17, title, css="title")
    body += charts.text(0, 36, f"columns: predicted, rows: true, {classes:,} classes")
    body += _image(image, 0.0, top, side, side)
    label = f"{title}: {right} of {int(counts_CxC.sum())} networks on the diagonal"
    return charts.svg(body, label, side + 14, top + side + 14)


def plane_svg(
    drawing: Drawing,
    points_PxD: Float[np.ndarray, "P D"] | None = None,
    css: str = "probe",
    size_P: Float[np.ndarray, " P"] | None = None,
    reach: float = 1.2,
) -> str:
    """One INR's drawing, each view beside the other, and points over it.

    Args:
      points_PxD: coordinates.
      css: class of the points, "probe" or "probe before".
      size_P: radius of each point; all alike if None.
      reach: largest coordinate that is shown, if there are points; without, the drawing is.
    """
    marks, seen = [], 0
    for n, view in enumerate(drawing.views):
        show = _on_plane if view.values.ndim == 3 else _on_line
        drawn, shown = show(view, points_PxD, css, size_P, reach)
        title = f"<title>{html.escape(view.title)}</title>" if view.title else ""
        marks.append(f'<g transform="translate({n * (_SIDE + _GAP)} 0)">{title}{drawn}</g>')
        seen = max(seen, shown)
    label = f"Drawing of network {drawing.row}, target {drawing.target}"
    if points_PxD is not None:
        label += f", with {seen} probes on it"
    number = len(drawing.views)
    body = "".join(marks) if number > 1 else drawn
    return charts.svg(body, label, number * (_SIDE + _GAP) - _GAP, _SIDE)


def _on_plane(
    view: View,
    points_PxD: Float[np.ndarray, "P D"] | None,
    css: str,
    size_P: Float[np.ndarray, " P"] | None,
    reach: float,
) -> tuple[str, int]:
    """An image and points over it, as marks, and how many points are seen."""
    half_x, half_y = half_sides(view.values)
    if points_PxD is None:
        reach = max(half_x, half_y)

    def on_plane(coordinate: Number) -> float:
        return (coordinate + reach) / (2 * reach) * _SIDE

    left, top = on_plane(-half_x), on_plane(-half_y)
    width, height = on_plane(half_x) - left, on_plane(half_y) - top
    marks = [
        mark("rect", class_="plane", width=_SIDE, height=_SIDE, rx=4),
        _image(view.values, left, top, width, height),
    ]
    if points_PxD is not None:
        points_Px2 = points_PxD[:, view.axes]
        for n in np.flatnonzero(np.all(np.abs(points_Px2) <= reach, axis=1)).tolist():
            x, y = points_Px2[n].tolist()
            center = {"cx": on_plane(x), "cy": on_plane(y)}
            marks.append(_probe(n, points_PxD[n], center, css, size_P))
    return "".join(marks), len(marks) - 2


def _on_line(
    view: View,
    points_Px1: Float[np.ndarray, "P 1"] | None,
    css: str,
    size_P: Float[np.ndarray, " P"] | None,
    reach: float,
) -> tuple[str, int]:
    """A curve for each channel, and points on the first, as marks, and how many are seen."""
    if points_Px1 is None:
        reach = 1.0
    at_T = np.linspace(-1, 1, len(view.values))
    values_TxC = np.nan_to_num(view.values)
    low, high = float(values_TxC.min()), float(values_TxC.max())
    spread = max(high - low, float(np.finfo(np.float32).tiny))

    def across(coordinate: Number) -> float:
        return (coordinate + reach) / (2 * reach) * _SIDE

    def down(value: Number) -> float:
        return _SIDE * (0.95 - 0.9 * (value - low) / spread)

    marks = [mark("rect", class_="plane", width=_SIDE, height=_SIDE, rx=4)]
    for n, values_T in enumerate(values_TxC.T.tolist()):
        places = zip(at_T.tolist(), values_T, strict=True)
        line = (f"{across(x):.1f},{down(y):.1f}" for x, y in places)
        marks.append(mark("polyline", class_=f"line c{1 + n % 7}", points=" ".join(line)))
    lines = len(marks)
    if points_Px1 is not None:
        for n in np.flatnonzero(np.abs(points_Px1[:, 0]) <= reach).tolist():
            x = float(points_Px1[n, 0])
            y = float(np.interp(x, at_T, values_TxC[:, 0]))
            marks.append(_probe(n, points_Px1[n], {"cx": across(x), "cy": down(y)}, css, size_P))
    return "".join(marks), len(marks) - lines


def _probe(
    n: int,
    point_D: Float[np.ndarray, " D"],
    center: dict[str, float],
    css: str,
    size_P: Float[np.ndarray, " P"] | None,
) -> str:
    radius = 2.6 if size_P is None else float(size_P[n])
    tooltip = f"probe {n}: ({', '.join(f'{value:.2f}' for value in point_D.tolist())})"
    return mark("circle", tooltip, class_=css, **center, r=radius)


def half_sides(image_HxWxC: Float[np.ndarray, "H W C"]) -> tuple[float, float]:
    """Where an image ends: coordinates -1 and 1 are the centres of the outer pixels."""
    height, width, _ = image_HxWxC.shape
    return 1 + 1 / max(width - 1, 1), 1 + 1 / max(height - 1, 1)


def reach_of(*points_PxD: Float[np.ndarray, "P D"]) -> float:
    """How far to show the plane: also probes outside the image, up to a limit."""
    furthest = max(float(np.nanmax(np.abs(points), initial=0)) for points in points_PxD)
    return float(np.clip(furthest * 1.05, 1.2, 1.6))


def _image(image_HxWxC: Float[np.ndarray, "H W C"], *box: float) -> str:
    """An image at x and y, of a width and a height; its pixels are left as they are."""
    sides = dict(zip(("x", "y", "width", "height"), box, strict=True))
    style = {"preserveAspectRatio": "none", "style": "image-rendering:pixelated"}
    return mark("image", **sides, **style, href=png_data(image_HxWxC))
