"""The methods by name: which class makes the probes, and what it needs of a config.

A new method is a class and an entry, and needs no change elsewhere.

1. Derive a class from `base.Generator`, which says how it is called.
2. Add it to `METHODS`: what reports call it, and for "coordinates" (networks that read points),
   "images" or both the class as "module:Class" with the config key of each setting, as in

       "tanh": Method("tanh layers", {"coordinates": Entry("mine:Tanh", {"width": "tanh_width"})})

   The entry of a class whose probes are not trained says `trained=False`.
3. Add settings of its own to the config, as in `config.tanh_width = 32`. Those that are whole
   numbers must be at least 1.

Then `--config=configs/mnist.py:tanh,64` trains it. A config file is a program and may itself add
the entry.

A command line is checked against `METHODS` before jax is imported: classes are named here, and
imported when they are used.
"""

import dataclasses
import pkgutil
import string
from collections.abc import Callable, Mapping
from typing import Any, Literal

from probegen_jax.errors import UserError

Kind = Literal["coordinates", "images"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A class of generators.

    Attributes:
      settings: the config key of each keyword argument that the class takes.
      optional: likewise, of those that have a default, for configs that lack the key.
      trained: whether training changes the probes.
    """

    path: str
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    trained: bool = True
    optional: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def generator(self) -> Any:
        """The class; see `base.Generator`."""
        return pkgutil.resolve_name(self.path)


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to come by probes.

    Attributes:
      entries: what makes its probes, by their kind: points (D,) or images (H, W, C).
      number: of its probes, by the settings, where these are not free to say `num_probes`.
      readout: of a method that does not probe, the name of what reads the weights, in which config
        keys stand in braces.
      source: the config key, which must not be None, that says where its probes come from.
    """

    title: str
    entries: Mapping[Kind, Entry]
    number: Callable[[Mapping[str, Any]], int] | None = None
    source: str | None = None
    readout: str | None = None

    @property
    def needed(self) -> list[str]:
        """The config keys that it cannot do without."""
        return sorted({key for entry in self.entries.values() for key in entry.settings.values()})

    @property
    def settings(self) -> list[str]:
        """All config keys that belong to it."""
        source = {self.source} if self.source else set()
        source |= {key for _, key, *_ in string.Formatter().parse(self.readout or "") if key}
        optional = {key for entry in self.entries.values() for key in entry.optional.values()}
        return sorted({*self.needed, *source, *optional})


# What may stand between the layers of a generator: the names in `networks.activations`, which
# needs jax.
GENERATOR_ACTIVATIONS = (
    *("none", "relu", "gelu", "tanh", "sigmoid", "leaky_relu", "sine", "selu"),
)

_POINTS, _IMAGES = f"{__package__}.coordinates", f"{__package__}.images"
_LINEAR = {"latent_dim": "latent_dim", "depth": "generator_depth"}
_ACTIVATION = {"activation": "generator_activation"}
_NO_PROBES = Entry(f"{__package__}.base:NoProbes", trained=False)
_NONE: dict[Kind, Entry] = {"coordinates": _NO_PROBES, "images": _NO_PROBES}
METHODS: dict[str, Method] = {
    "probegen": Method(
        "ProbeGen",
        {
            "coordinates": Entry(f"{_POINTS}:DeepLinear", _LINEAR, optional=_ACTIVATION),
            "images": Entry(
                f"{_IMAGES}:DeepLinearImage",
                _LINEAR | {"width": "generator_width"},
                optional=_ACTIVATION | {"layers": "generator"},
            ),
        },
    ),
    "vanilla": Method(
        "vanilla probes",
        {"coordinates": Entry(f"{_POINTS}:Vanilla"), "images": Entry(f"{_IMAGES}:VanillaImage")},
    ),
    "uniform": Method("random points", {"coordinates": Entry(f"{_POINTS}:Uniform", trained=False)}),
    "pixels": Method(
        "all pixels",
        {"coordinates": Entry(f"{_POINTS}:Pixels", {"side": "pixels_size"}, trained=False)},
        number=lambda settings: settings["pixels_size"] ** 2,
    ),
    "dead_leaves": Method("dead leaves", {"images": Entry(f"{_IMAGES}:DeadLeaves", trained=False)}),
    "images": Method(
        "real images",
        {"images": Entry(f"{_IMAGES}:Images", trained=False)},
        source="probe_images",
    ),
    "flat": Method("all weights", _NONE, number=lambda settings: 0, readout="flat"),
    "statnn": Method(
        "weight statistics", _NONE, number=lambda settings: 0, readout="statnn_{statnn_head}"
    ),
}


def kind_of(probe_shape: tuple[int, ...]) -> str:
    """The kind of probe: "coordinates" (D,) or "images" (H, W, C)."""
    return "images" if len(probe_shape) == 3 else "coordinates"


def entry(method: str, probe_shape: tuple[int, ...]) -> Entry:
    """The entry of a method for probes of a shape; a `UserError` if it has none."""
    kind = kind_of(probe_shape)
    choices = {name: m.entries[kind] for name, m in METHODS.items() if kind in m.entries}
    if method not in choices:
        raise UserError(
            f"method is {method!r}, but this zoo's networks read {kind}; choose from "
            f"{', '.join(choices)}"
        )
    return choices[method]


def label(method: str, num_probes: int) -> str:
    """A method and its number of probes in short, as run folders are called."""
    return f"{method}-{num_probes}" if num_probes else method


def title(method: str) -> str:
    """A method's title in reports; its name, if the method is no longer known."""
    return METHODS[method].title if method in METHODS else method


def of_other_methods(method: str) -> set[str]:
    """The config keys that belong to other methods alone; none if the method is not known."""
    if method not in METHODS:
        return set()
    return {key for m in METHODS.values() for key in m.settings} - set(METHODS[method].settings)
