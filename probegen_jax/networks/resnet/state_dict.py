"""A ResNet's arrays under the names that libraries give them, and what these tell of it."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from probegen_jax.errors import BadNetworkError, UnknownNamesError
from probegen_jax.networks import batch_norm
from probegen_jax.networks.contract import check_finite

if TYPE_CHECKING:
    from probegen_jax.networks.resnet.resnet import ResNetSpec

Shapes = Mapping[str, tuple[int, ...]]
Names = tuple[str, str]  # of a convolution and the BatchNorm after it


_BLOCKS = {2: "basic", 3: "bottleneck"}  # by the number of their convolutions
# Whether the first convolution is strided and pooled, by its kernel: what all libraries have, and
# what trainings on small images have.
_STEMS = {7: (2, True), 3: (1, False)}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names of arrays before `.weight`; {s}, {b}, {i} count stages, blocks, convolutions.

    Attributes:
      first: the number of the first stage and of the first convolution of a block.
      shortcuts: of the convolution around a block, any of these.
    """

    title: str
    stem: Names
    layer: Names
    shortcuts: tuple[Names, ...]
    heads: tuple[str, ...]
    first: int

    def layer_names(self, stage: int, block: int, index: int) -> Names:
        """Those of a block's convolution, all counted from 0."""
        numbers = {"s": stage + self.first, "b": block, "i": index + self.first}
        return self.layer[0].format(**numbers), self.layer[1].format(**numbers)

    def shortcut_names(self, state: Mapping[str, Any], stage: int, block: int) -> Names:
        """Those of the convolution around a block: those in `state`, or the first."""
        numbers = {"s": stage + self.first, "b": block}
        found = [(conv.format(**numbers), norm.format(**numbers)) for conv, norm in self.shortcuts]
        return next((names for names in found if f"{names[0]}.weight" in state), found[0])

    def head(self, state: Mapping[str, Any]) -> str:
        """The name of the linear layer: that in `state`, or the first."""
        return next((name for name in self.heads if f"{name}.weight" in state), self.heads[0])


# In torchvision and timm; in many a training on CIFAR-10.
_AROUND = ("downsample", "shortcut")
_HF = "resnet.encoder.stages.{s}.layers.{b}"
LAYOUTS = (
    Layout(
        "torchvision's, timm's",
        ("conv1", "bn1"),
        ("layer{s}.{b}.conv{i}", "layer{s}.{b}.bn{i}"),
        tuple((f"layer{{s}}.{{b}}.{x}.0", f"layer{{s}}.{{b}}.{x}.1") for x in _AROUND),
        ("fc", "linear"),
        1,
    ),
    Layout(
        "transformers'",
        ("resnet.embedder.embedder.convolution", "resnet.embedder.embedder.normalization"),
        (f"{_HF}.layer.{{i}}.convolution", f"{_HF}.layer.{{i}}.normalization"),
        ((f"{_HF}.shortcut.convolution", f"{_HF}.shortcut.normalization"),),
        ("classifier.1",),
        0,
    ),
)


def layout_of(state: Mapping[str, Any], network: str) -> tuple[Layout, str]:
    """The layout whose names fit, and what stands before each of them.

    Raises:
      UnknownNamesError: none fits; what each of them lacks.
      BadNetworkError: several networks are there.
    """
    for layout in LAYOUTS:
        ends = tuple(f"{name}.weight" for name in (layout.stem[0], layout.layer_names(0, 0, 0)[0]))
        before = [
            {key.removesuffix(end) for key in state if f".{key}".endswith(f".{end}")}
            for end in ends
        ]
        # An outer `conv1` or `layer1` is no start of a network where only the other one is.
        prefixes = sorted(before[0] & before[1])
        if len(prefixes) > 1:
            which = ", ".join(repr(prefix) for prefix in prefixes)
            raise BadNetworkError(network, f"holds several ResNets, under {which}; save one alone")
        if prefixes:
            return layout, prefixes[0]
    lacks = "; ".join(
        f"{layout.title} need {layout.stem[0]}.weight and {layout.layer_names(0, 0, 0)[0]}.weight"
        for layout in LAYOUTS
    )
    shown = ", ".join(list(state)[:3])
    raise UnknownNamesError(network, f"is no ResNet under known names: {lacks}; it has {shown}, …")


# What a user can say of a `ResNetSpec`, beside `image_size`.
_SAID = ("stem_stride", "stem_pool", "strides", "stride_first", "activation")


def architecture(
    config: Mapping[str, Any] | None,
    state: Mapping[str, np.ndarray],
    name: str,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """What a `ResNetSpec` is made from, of a network's files; see `NetworkSpec.from_files`."""
    layout, prefix = layout_of(state, name)
    shapes = {key.removeprefix(prefix): tuple(array.shape) for key, array in state.items()}
    stem, head = layout.stem[0], layout.head(shapes)
    depths: list[int] = []
    while depth := _count(lambda b: layout.layer_names(len(depths), b, 0)[0], shapes):
        depths.append(depth)
    inside = _count(lambda i: layout.layer_names(0, 0, i)[0], shapes)
    last_of = [layout.layer_names(s, 0, inside - 1)[0] for s in range(len(depths))]
    for key in (stem, head, *last_of):
        if len(shapes.get(f"{key}.weight", ())) != (2 if key == head else 4):
            raise BadNetworkError(name, f"has no {key}.weight, as {layout.title} ResNets have")
    if inside not in _BLOCKS:
        raise BadNetworkError(name, f"its blocks have {inside} convolutions; 2 or 3 are read")
    widths = [shapes[f"{key}.weight"][0] for key in last_of]
    within = shapes[f"{layout.layer_names(0, 0, 0)[0]}.weight"][0]
    if inside == 3 and 4 * within != widths[0]:
        what = f"its blocks are {within} channels wide inside, and put out {widths[0]}"
        raise BadNetworkError(name, f"{what}: wide ResNets and ResNeXts are not read")
    stem_width, inputs, kernel, _ = shapes[f"{stem}.weight"]
    said = _told(config, name, len(depths))
    said |= {key: given[key] for key in ("image_size", *_SAID) if given.get(key) is not None}
    if kernel not in _STEMS and not {"stem_stride", "stem_pool"} <= said.keys():
        raise BadNetworkError(
            name,
            f"its first convolution is {kernel}×{kernel}, whose stride and pooling are not known",
            "give --config.stem_stride=N and --config.stem_pool",
        )
    size = said.pop("image_size", None)
    if size is None:
        raise BadNetworkError(
            name,
            "is a ResNet, and nothing beside it says how large its images are",
            "give --config.image_size=N",
        )
    height, width = size if isinstance(size, list | tuple) else (size, size)
    stride, pool = _STEMS.get(kernel, (1, False))
    around = any(
        f"{layout.shortcut_names(shapes, s, 0)[0]}.weight" in shapes for s in range(len(depths))
    )
    return {
        "widths": tuple(widths),
        "depths": tuple(depths),
        "block": _BLOCKS[inside],
        "stem_width": stem_width,
        "stem_kernel": kernel,
        "stem_stride": stride,
        "stem_pool": pool,
        "shortcut": "conv" if around or len(set(widths)) == 1 else "pad",
        "num_classes": shapes[f"{head}.weight"][0],
        "image_shape": (height, width, inputs),
        **said,
    }


def _count(name: Callable[[int], str], shapes: Shapes) -> int:
    """How many arrays there are from 0, called `name` of their number."""
    return next(n for n in itertools.count() if f"{name(n)}.weight" not in shapes)


def check_config(config: Mapping[str, Any] | None, spec: "ResNetSpec", name: str) -> None:
    """Raises a `BadNetworkError` if a config.json says that the network runs otherwise."""
    for key, value in _told(config, name, len(spec.depths)).items():
        if key != "image_size" and value != getattr(spec, key):
            what = f"its config.json says {key} {value!r}, not {getattr(spec, key)!r}"
            raise BadNetworkError(name, what)


def _told(config: Mapping[str, Any] | None, name: str, stages: int) -> dict[str, Any]:
    """What a config.json of transformers, or of timm, says that arrays do not."""
    if config is None:
        return {}
    if (kind := config.get("model_type", "resnet")) != "resnet":
        raise BadNetworkError(name, f"its config.json says model_type {kind!r}, which is no ResNet")
    if (act := config.get("hidden_act", "relu")) != "relu":  # there, within blocks it is ReLU
        raise BadNetworkError(name, f"its hidden_act is {act!r}; only 'relu' is read")
    told: dict[str, Any] = {}
    if "downsample_in_bottleneck" in config:
        told["stride_first"] = config["downsample_in_bottleneck"]
    if "downsample_in_first_stage" in config:
        told["strides"] = (2,) * stages if config["downsample_in_first_stage"] else None
    of_timm = config.get("pretrained_cfg")
    size = of_timm.get("input_size") if isinstance(of_timm, Mapping) else None
    if isinstance(size, list) and len(size) == 3:
        told["image_size"] = size[1:]
    return told


def read(spec: "ResNetSpec", state: Mapping[str, np.ndarray], network: str) -> Any:
    """One network's weights from a state dict of any layout, with BatchNorm folded.

    Raises:
      BadNetworkError: an array is missing, of another shape, not finite or not of such a network.
    """
    layout, prefix = layout_of(state, network)
    left = {
        name.removeprefix(prefix): array
        for name, array in state.items()
        if name.startswith(prefix) and not name.endswith("num_batches_tracked")
    }
    check_finite(network, left)

    def affine(path: tuple[Any, ...], shapes: Mapping[str, Any]) -> dict[str, np.ndarray]:
        name, norm_name = _names(
            layout, left, [getattr(key, "key", None) or key.idx for key in path]
        )
        *sides, inputs, outputs = shapes["kernel"].shape
        shape_of = {"weight": (outputs, inputs, *sides), "bias": (outputs,)}
        weight = _taken(left, f"{name}.weight", shape_of["weight"], network)
        norm = {
            last: _taken(left, f"{norm_name}.{last}", shape_of["bias"], network)
            for last in ("weight", "bias", "running_mean", "running_var")
            if f"{norm_name}.{last}" in left
        }
        bias = None
        if norm_name and not norm and f"{name}.bias" not in left:
            raise BadNetworkError(network, f"has neither {norm_name}.weight nor {name}.bias")
        if not norm or f"{name}.bias" in left:
            bias = _taken(left, f"{name}.bias", shape_of["bias"], network)
        if norm:
            batch_norm.check(network, norm_name, norm)
            weight, bias = batch_norm.folded(weight, bias, norm)
        return {"kernel": np.ascontiguousarray(np.moveaxis(weight, (0, 1), (-1, -2))), "bias": bias}

    weights = jax.tree_util.tree_map_with_path(affine, spec.abstract(), is_leaf=_is_affine)
    if left:
        what = f"has {prefix}{next(iter(left))}, which a ResNet of such blocks has not"
        raise BadNetworkError(network, what)
    return weights


def _is_affine(tree: Any) -> bool:
    return isinstance(tree, dict) and "kernel" in tree


def _names(layout: Layout, state: Mapping[str, Any], path: list[Any]) -> Names:
    """A layer's names by its place in the weights; the head has no BatchNorm."""
    match path:
        case ["stem"]:
            return layout.stem
        case ["head"]:
            return layout.head(state), ""
        case ["stages", stage, block, "shortcut"]:
            return layout.shortcut_names(state, stage, block)
        case ["stages", stage, block, "layers", index]:
            return layout.layer_names(stage, block, index)
    raise AssertionError(path)


def _taken(
    state: dict[str, np.ndarray], name: str, shape: tuple[int, ...], network: str
) -> np.ndarray:
    """An array, taken out of those that are left to read."""
    if name not in state:
        raise BadNetworkError(network, f"has no {name}")
    array = state.pop(name)
    if array.shape != shape:
        raise BadNetworkError(network, f"{name} has shape {array.shape}, not {shape}")
    return array
