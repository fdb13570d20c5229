"""The families of networks, by the names that exported models use."""

from collections.abc import Mapping
from typing import Any

from probegen_jax.errors import UserError
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.field import FieldSpec
from probegen_jax.networks.layered_cnn.layered import LayeredCnnSpec
from probegen_jax.networks.mixed_cnn.mixed import MixedCnnSpec
from probegen_jax.networks.points import PointSpec
from probegen_jax.networks.resnet.resnet import ResNetSpec
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.networks.vit import VitSpec
from probegen_jax.typed_json import typed

FAMILIES: dict[str, type[NetworkSpec]] = {
    "siren": SirenSpec,
    "cnn": CnnSpec,
    "mixed_cnn": MixedCnnSpec,
    "field": FieldSpec,
    "layered_cnn": LayeredCnnSpec,
    "vit": VitSpec,
    "resnet": ResNetSpec,
}


def points_from_json(values: Mapping[str, Any], where: str) -> PointSpec:
    """The spec of a built zoo of INRs; a `UserError` if `values` are none.

    Without a "kind" they are a SIREN's.
    """
    rest = {name: value for name, value in values.items() if name != "kind"}
    family = FAMILIES.get(str(values.get("kind", "siren")))
    if family is None or not issubclass(family, PointSpec):
        raise UserError(f"{where}: kind is {values['kind']!r:.80}, which is no kind of INR")
    return typed(family, rest, where)


def to_json(spec: NetworkSpec) -> dict[str, Any]:
    """A spec as plain values, with the name of its family; a `UserError` if that has none."""
    for kind, family in FAMILIES.items():
        if type(spec) is family:
            return {"kind": kind, **spec.to_json()}
    raise UserError(
        f"cannot export a run on networks like {type(spec).__name__}; add the family to "
        "networks/registry.py"
    )


def from_json(content: Any) -> NetworkSpec:
    """The inverse of `to_json`; a `UserError` for an unknown family, or values that are no spec."""
    kind = content.get("kind") if isinstance(content, Mapping) else None
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(f"networks of kind {kind!r} are unknown; known are {', '.join(FAMILIES)}")
    values = {name: value for name, value in content.items() if name != "kind"}
    return FAMILIES[kind].from_json(values)
