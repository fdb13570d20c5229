"""Pictures inside SVG and HTML: images as PNG data, probes as points over what networks draw."""

import base64
import html
import io

import numpy as np
from jaxtyping import Float
from PIL import Image

from probegen_jax.report import charts
from probegen_jax.report.charts import Number
from probegen_jax.report.findings import Drawing

_SIDE = 200.0  # of a plane, in units of its drawing


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
    framed = np.pad(images, ((0, 0), (0, gap), (0, gap), (0, 0)))
    columns = min(columns, len(framed))
    framed = np.pad(framed, ((0, -len(framed) % columns), *[(0, 0)] * 3))
    _, height, width, channels = framed.shape
    rows = framed.reshape(-1, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return rows.reshape(-1, columns * width, channels)


def sheet_svg(images_PxHxWxC: Float[np.ndarray, "P H W C"], title: str, columns: int = 16) -> str:
    """A sheet of images with a title, their pixels left as they are."""
    image = sheet(images_PxHxWxC, columns)
    width, top = 480.0, 28.0
    height = width * image.shape[0] / image.shape[1]
    if len(images_PxHxWxC) < columns:  # few probes are no reason for large pixels
        height, width = (
            height * len(images_PxHxWxC) / columns,
            width * len(images_PxHxWxC) / columns,
        )
    body = charts.text(0, 17, title, css="title") + _image(image, 0, top, width, height)
    return charts.svg(body, f"{title}: {len(images_PxHxWxC)} images", 480, top + height)


def plane_svg(
    drawing: Drawing,
    layers: list[tuple[str, Float[np.ndarray, "P 2"]]],
    grid: str,
    size_P: Float[np.ndarray, " P"] | None = None,
    reach: float = 1.2,
) -> str:
    """One INR's drawing with points over it.

    Args:
      drawing: of the network.
      layers: class ("probe" or "probe before") and coordinates of points.
      grid: "xy" if the column comes first in coordinates, "ij" if the row does.
      size_P: radius of each point; all alike if None.
      reach: largest coordinate that is shown, if there are points; without, the drawing is.
    """
    height, width, _ = drawing.image_HxWxC.shape
    # Coordinates -1 and 1 are the centres of the outer pixels.
    half_x, half_y = 1 + 1 / max(width - 1, 1), 1 + 1 / max(height - 1, 1)
    if not layers:
        reach = max(half_x, half_y)

    def place(value: Number) -> float:
        return (value + reach) / (2 * reach) * _SIDE

    body = [f'<rect class="plane" width="{_SIDE:g}" height="{_SIDE:g}" rx="4"/>']
    extent = (place(-half_x), place(-half_y), place(half_x), place(half_y))
    body.append(
        _image(
            drawing.image_HxWxC, extent[0], extent[1], extent[2] - extent[0], extent[3] - extent[1]
        )
    )
    inside = 0
    for css, coordinates in layers:
        for n, (first, second) in enumerate(coordinates.tolist()):
            x, y = (first, second) if grid == "xy" else (second, first)
            if not (abs(x) <= reach and abs(y) <= reach):
                continue
            inside += 1
            radius = 2.6 if size_P is None else float(size_P[n])
            body.append(
                f'<circle class="{css}" cx="{place(x):.1f}" cy="{place(y):.1f}" r="{radius:.1f}">'
                f"<title>probe {n}: ({first:.2f}, {second:.2f})</title></circle>"
            )
    label = f"Drawing of network {drawing.row}, target {drawing.target}"
    if layers:
        label += f", with {inside} probes on it"
    return charts.svg("".join(body), label, _SIDE, _SIDE)


def reach_of(*points: Float[np.ndarray, "P 2"]) -> float:
    """How far to show the plane: a probe outside the image too, but not at any price."""
    furthest = max(float(np.nanmax(np.abs(each), initial=0)) for each in points)
    return float(np.clip(furthest * 1.05, 1.2, 1.6))


def _image(
    image_HxWxC: Float[np.ndarray, "H W C"], x: Number, y: Number, width: Number, height: Number
) -> str:
    address = html.escape(png_data(image_HxWxC))
    return (
        f'<image x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'preserveAspectRatio="none" style="image-rendering:pixelated" href="{address}"/>'
    )
