"""Pictures inside SVG and HTML: images as PNG data, probes as points over what networks draw."""

import base64
import io

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from probegen_jax.report import charts
from probegen_jax.report.charts import Number, mark
from probegen_jax.report.findings import Drawing

_SIDE = 200  # of a plane, in units of its drawing


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
    points_Px2: Float[np.ndarray, "P 2"] | None = None,
    css: str = "probe",
    size_P: Float[np.ndarray, " P"] | None = None,
    reach: float = 1.2,
) -> str:
    """One INR's drawing, and points over it.

    Args:
      points_Px2: coordinates, in the drawing's order.
      css: class of the points, "probe" or "probe before".
      size_P: radius of each point; all alike if None.
      reach: largest coordinate that is shown, if there are points; without, the drawing is.
    """
    half_x, half_y = half_sides(drawing.image_HxWxC)
    if points_Px2 is None:
        reach = max(half_x, half_y)

    def on_plane(coordinate: Number) -> float:
        return (coordinate + reach) / (2 * reach) * _SIDE

    left, top = on_plane(-half_x), on_plane(-half_y)
    width, height = on_plane(half_x) - left, on_plane(half_y) - top
    marks = [
        mark("rect", class_="plane", width=_SIDE, height=_SIDE, rx=4),
        _image(drawing.image_HxWxC, left, top, width, height),
    ]
    label = f"Drawing of network {drawing.row}, target {drawing.target}"
    if points_Px2 is not None:
        for n in np.flatnonzero(np.all(np.abs(points_Px2) <= reach, axis=1)):
            first, second = points_Px2[n].tolist()
            x, y = (first, second) if drawing.grid == "xy" else (second, first)
            center = {"cx": on_plane(x), "cy": on_plane(y)}
            radius = 2.6 if size_P is None else float(size_P[n])
            tooltip = f"probe {n}: ({first:.2f}, {second:.2f})"
            marks.append(mark("circle", tooltip, class_=css, **center, r=radius))
        label += f", with {len(marks) - 2} probes on it"
    return charts.svg("".join(marks), label, _SIDE, _SIDE)


def half_sides(image_HxWxC: Float[np.ndarray, "H W C"]) -> tuple[float, float]:
    """Where an image ends: coordinates -1 and 1 are the centres of the outer pixels."""
    height, width, _ = image_HxWxC.shape
    return 1 + 1 / max(width - 1, 1), 1 + 1 / max(height - 1, 1)


def reach_of(*points_Px2: Float[np.ndarray, "P 2"]) -> float:
    """How far to show the plane: also probes outside the image, up to a limit."""
    furthest = max(float(np.nanmax(np.abs(points), initial=0)) for points in points_Px2)
    return float(np.clip(furthest * 1.05, 1.2, 1.6))


def _image(image_HxWxC: Float[np.ndarray, "H W C"], *box: float) -> str:
    """An image at x and y, of a width and a height; its pixels are left as they are."""
    sides = dict(zip(("x", "y", "width", "height"), box, strict=True))
    style = {"preserveAspectRatio": "none", "style": "image-rendering:pixelated"}
    return mark("image", **sides, **style, href=png_data(image_HxWxC))
