"""The networks of a CNN zoo: architecture and training of each, drawn from a search space."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.factory.cnn.fit import TrainingRun
from probegen_jax.factory.cnn.search_space import DRAWN, PER_LAYER, Space, draw
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer import ConvLayer
from probegen_jax.zoo import splits


@dataclasses.dataclass(frozen=True)
class Planned:
    """One network to be trained.

    Attributes:
      train_fraction: share of the images that it sees.
      units: epochs (or steps) at which it is kept, in step with `run.kept`.
    """

    spec: CnnSpec
    run: TrainingRun
    train_fraction: float
    units: tuple[int, ...]


def plan(
    space: Space,
    number: int,
    image_shape: tuple[int, int, int],
    num_classes: int,
    train_images: int,
    seed: int,
    where: str = "space",
) -> list[Planned]:
    """The networks of a zoo, each drawn from the space by (seed, its number) alone.

    Raises:
      UserError: an architecture that cannot be, or too few different ones.
    """
    alike = space["networks_per_architecture"]
    wanted = -(-number // alike)
    rng = np.random.default_rng([seed, 0])
    specs: list[CnnSpec] = []
    for _ in range(wanted):
        tried = (_spec(space, image_shape, num_classes, rng, where) for _ in range(1001))
        new = next((spec for spec in tried if alike == 1 or spec not in specs), None)
        if new is None:
            raise UserError(
                f"{where}: has only {len(specs)} architectures, but {wanted} are wanted; widen it, "
                "or let more networks share one with networks_per_architecture"
            )
        specs.append(new)
    planned = []
    for index in range(number):
        rng = np.random.default_rng([seed, 1, index])
        drawn = {key: draw(space[key], rng) for key in DRAWN if key not in (*PER_LAYER, "layers")}
        images = max(1, int(drawn["train_fraction"] * train_images))
        in_steps = round(drawn["steps"])
        unit = 1 if in_steps else max(1, images // space["batch_size"])
        length = in_steps or round(drawn["epochs"])
        units = tuple(sorted({int(u) for u in space["checkpoints"] if u < length} | {length}))
        values = {
            name: value if isinstance(value, str) else float(value)
            for name, value in drawn.items()
            if hasattr(TrainingRun, name)
        }
        run = TrainingRun(index, **values, train_images=images, kept=tuple(unit * u for u in units))
        planned.append(Planned(specs[index // alike], run, float(drawn["train_fraction"]), units))
    return planned


def by_architecture(planned: Sequence[Planned], indices: Iterable[int]) -> dict[CnnSpec, list[int]]:
    """Numbers of the networks that are of each architecture."""
    groups: dict[CnnSpec, list[int]] = {}
    for index in indices:
        groups.setdefault(planned[index].spec, []).append(index)
    return groups


def split_architectures(
    planned: Sequence[Planned], indices: Iterable[int], *shares: float, where: object
) -> dict[str, list[int]]:
    """`splits.seeded` for networks of which no architecture is in two splits."""
    groups = by_architecture(planned, indices)
    specs_of = splits.seeded(list(groups), *shares, where=where)
    return {name: [i for spec in specs for i in groups[spec]] for name, specs in specs_of.items()}


def _spec(
    space: Space,
    image_shape: tuple[int, int, int],
    num_classes: int,
    rng: np.random.Generator,
    where: str,
) -> CnnSpec:
    depth = round(draw(space["layers"], rng))
    shared = {key: draw(space[key], rng) for key in PER_LAYER}
    channels = image_shape[2]
    layers: list[ConvLayer] = []
    for index in range(depth):
        own = {key: draw(space[key], rng) for key in PER_LAYER if key in space["per_layer"]}
        has = shared | own
        out, kernel, stride = (round(has[key]) for key in ("channels", "kernel", "stride"))
        padding = {"same": kernel // 2, "valid": 0}.get(has["padding"], has["padding"])
        residual = _residual(space["residual"], index, rng)
        layers.append(
            ConvLayer(channels, out, kernel, stride, int(padding), has["activation"], residual)
        )
        channels = out
    try:
        return CnnSpec(tuple(layers), num_classes, image_shape)
    except UserError as error:
        raise UserError(
            f"{where}: draws an architecture that cannot be: {error}; change the space, or the "
            "images' size with --resize"
        ) from error


def _residual(kind: str | float | int, index: int, rng: np.random.Generator) -> int:
    if kind == "none" or not index:
        return -1
    if kind == "not_adjacent":  # none, or any layer before the one before
        return int(rng.integers(-1, index - 1))
    return int(rng.integers(index)) if rng.random() < kind else -1
