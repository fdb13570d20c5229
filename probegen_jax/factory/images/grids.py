"""Labelled signals, volumes and points with values in files of the user, for fields to draw."""

import pathlib

import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.factory.images.files import Found, Part, arrays_of, channels_first, with_labels
from probegen_jax.files import UNREADABLE

# What a source is called on the command line, and the axes of one thing in it.
KINDS = {"signals": ("T",), "volumes": ("D", "H", "W")}
POINTS = "points"
_MOST_COORDINATES = 3


def read(kind: str, path: pathlib.Path) -> Found:
    """The signals or volumes of an `.npz` or `.npy`, or the points and values of an `.npz`.

    In an `.npz` they are called `signals`, `volumes`, or `points` and `values`, beside `labels`;
    or `train_signals` and `train_labels`, likewise with `val` and `test`; or `x_train` and
    `y_train`. Beside `FILE.npy`, labels are in `FILE_labels.npy`.

    Raises:
      UserError: a file cannot be read, or holds something else.
    """
    if path.suffix == ".npy":
        if kind == POINTS:
            raise UserError(f"{path}: points and their values do not fit one array; give an .npz")
        labels = path.with_name(f"{path.stem}_labels.npy")
        return Found(_of_grid(kind, _load(path), _load(labels), path))
    called = "values" if kind == POINTS else kind
    names = [(called, "labels"), (f"{{}}_{called}", "{}_labels"), ("x_{}", "y_{}")]
    if kind == POINTS:
        names = [(*names[0], "points"), (*names[1], "{}_points")]
        return arrays_of(path, names, _of_points)
    return arrays_of(path, names, lambda *arrays: _of_grid(kind, *arrays))


def _load(path: pathlib.Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False, mmap_mode="r")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: is not a readable .npy ({error})") from error


def _of_grid(kind: str, values: np.ndarray, labels: np.ndarray, where: object) -> Part:
    axes = KINDS[kind]
    if values.ndim == len(axes) + 1:
        values = values[..., None]
    if values.ndim != len(axes) + 2 or 0 in values.shape:
        plain = ", ".join(("N", *axes))
        raise UserError(
            f"{where}: {kind} have shape {values.shape}; give ({plain}) or ({plain}, C), at least "
            "one"
        )
    if channels_first(values, where, kind):
        values = np.moveaxis(values, 1, -1)
    return with_labels(_in_range(values, f"{where}: {kind}"), labels, where, kind)


def _of_points(values: np.ndarray, labels: np.ndarray, points: np.ndarray, where: object) -> Part:
    """As many values as points; points may be shared by all, or be of each."""
    values = values[..., None] if values.ndim == 2 else values
    if points.ndim == 2:
        points = np.broadcast_to(points, (len(values), *points.shape))
    if values.ndim != 3 or points.ndim != 3 or points.shape[:2] != values.shape[:2]:
        raise UserError(
            f"{where}: points have shape {points.shape} and values {values.shape}; give points "
            "(N, M, D) or (M, D), and values (N, M) or (N, M, C)"
        )
    if not 1 <= points.shape[2] <= _MOST_COORDINATES:
        raise UserError(
            f"{where}: points have {points.shape[2]} coordinates; give 1 to {_MOST_COORDINATES}"
        )
    made = with_labels(_in_range(values, f"{where}: values"), labels, where, "values")
    at = _in_range(points, f"{where}: points", whole=False)
    return Part(made.images, made.labels, np.ascontiguousarray(at, np.float32))


def _in_range(values: np.ndarray, what: str, whole: bool = True) -> np.ndarray:
    """Values as a `Part` has them: uint8 as they are, others as float32 in [-1, 1].

    Whole numbers are occupancies where all are 0 or 1, else in units of the largest of their type.
    """
    if whole and values.dtype in (np.bool_, np.uint8, np.int16, np.int8, np.int32, np.int64):
        low, high = int(values.min()), int(values.max())
        if low >= 0 and high <= 1:
            return values.astype(np.uint8) * np.uint8(255)
        if values.dtype in (np.uint8, np.int16):
            scale = 1 if values.dtype == np.uint8 else np.float32(2**15)
            return values if scale == 1 else values.astype(np.float32) / scale
        raise UserError(
            f"{what} are {values.dtype} from {low} to {high}; give 0 and 1, uint8, int16, or "
            "floats in [-1, 1]"
        )
    if not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"{what} are {values.dtype}; give floats in [-1, 1]")
    for row, each in enumerate(values):
        if not np.isfinite(each).all():
            raise UserError(f"{what} of number {row} hold NaN or infinite values; leave it out")
    low, high = float(values.min()), float(values.max())
    if low < -1 or high > 1:
        raise UserError(f"{what} go from {low:g} to {high:g}; scale them to [-1, 1]")
    return values.astype(np.float32)
