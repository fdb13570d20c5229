"""Zoo networks as PyTorch modules, and three ways to show probes to a batch of them.

`loop` calls one module after another, `compile` has `torch.compile` see that loop as a whole, and
`vmap` runs stacked weights through `torch.func.vmap`, one call for each architecture in the batch.
"""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, vmap

from benchmarks import REPO

sys.path[:0] = [str(REPO), str(REPO / "tests")]

from plain_torch import PlainCnn

from probegen_jax.errors import UserError
from probegen_jax.networks.activations import ACTIVATIONS
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer import PER_NETWORK, ConvLayer
from probegen_jax.networks.mixed_cnn.mixed import MixedCnnSpec
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.zoo.zoo import Zoo

VARIANTS = ("loop", "compile", "vmap")


class Siren(nn.Module):
    """sin(w0·(Wx + b)) in every hidden layer, then a linear one, then a shift."""

    def __init__(self, spec: SirenSpec):
        super().__init__()
        self.plan = spec
        sizes = spec.sizes
        self.layers = nn.ModuleList(nn.Linear(m, n) for m, n in itertools.pairwise(sizes))

    def forward(self, x):
        for w0, layer in zip(self.plan.w0s, self.layers[:-1], strict=True):
            x = torch.sin(w0 * layer(x))
        return self.layers[-1](x) + self.plan.output_shift


def make_networks(
    zoo: Zoo, rows: np.ndarray | None = None, lean: bool = False, device: str = "cpu"
) -> list[nn.Module]:
    """Networks of a zoo as modules, in the order of `rows` (all, if None).

    Their weights require gradients, unless `lean`.
    """
    rows = np.arange(len(zoo)) if rows is None else rows
    return [
        make_network(plan, state, lean, device)
        for plan, state in plans_and_states(zoo, rows.tolist())
    ]


@dataclasses.dataclass(frozen=True)
class Stack:
    """The networks of one architecture: a template, and weights with a leading network axis."""

    template: nn.Module
    tensors: dict[str, torch.Tensor]
    lean: bool

    def respond(self, rows: torch.Tensor, probes: torch.Tensor) -> torch.Tensor:
        state = {name: tensor[rows] for name, tensor in self.tensors.items()}
        if not self.lean:
            state = {name: tensor.requires_grad_() for name, tensor in state.items()}
        return vmap(lambda weights: functional_call(self.template, weights, (probes,)))(state)


class StackedNetworks:
    """A zoo by architecture: what `vmap` wants. `respond` takes places in `rows`."""

    def __init__(self, zoo: Zoo, rows: np.ndarray, lean: bool = False, device: str = "cpu"):
        members: dict[Any, list[int]] = {}
        states = []
        for place, (plan, state) in enumerate(plans_and_states(zoo, rows.tolist())):
            members.setdefault(plan, []).append(place)
            states.append(state)
        self.group_N = np.empty(len(rows), np.int64)
        self.place_N = np.empty(len(rows), np.int64)
        self.stacks = []
        for group, (plan, places) in enumerate(members.items()):
            self.group_N[places] = group
            self.place_N[places] = np.arange(len(places))
            tensors = {
                name: torch.stack([states[place][name] for place in places]).to(device)
                for name in states[places[0]]
            }
            with torch.device("meta"):
                template = _empty(plan)
            self.stacks.append(Stack(template, tensors, lean))

    def respond(self, places: Sequence[int], probes: torch.Tensor) -> torch.Tensor:
        """Responses (B, P, R) of the networks at `places` to probes (P, ...)."""
        places = np.asarray(places)
        groups = self.group_N[places]
        parts, order = [], []
        for group in np.unique(groups):
            chosen = np.flatnonzero(groups == group)
            rows = torch.from_numpy(self.place_N[places[chosen]]).to(probes.device)
            parts.append(self.stacks[group].respond(rows, probes))
            order.append(chosen)
        back = torch.from_numpy(np.argsort(np.concatenate(order))).to(probes.device)
        return torch.cat(parts)[back]


def respond_loop(networks: Sequence[nn.Module], probes: torch.Tensor) -> torch.Tensor:
    """Responses (B, P, R) of modules to probes (P, ...), one module after another."""
    return torch.stack([network(probes) for network in networks])


def compiled_loop(zoo: Zoo):
    """`respond_loop` through `torch.compile`, where all batches look the same to it."""
    plans = {plan for plan, _ in plans_and_states(zoo, range(len(zoo)))}
    if len(plans) > 1:
        raise UserError(
            f"torch.compile of the loop is for zoos of one architecture, and {zoo.name} has "
            f"{len(plans)}: every batch would be compiled anew; use --variant=loop or vmap"
        )
    return torch.compile(respond_loop)


def _empty(plan: Any) -> nn.Module:
    return Siren(plan) if isinstance(plan, SirenSpec) else PlainCnn(*plan)


def make_network(
    plan: Any, state: dict[str, torch.Tensor], lean: bool = False, device: str = "cpu"
) -> nn.Module:
    """One network: its architecture as `plans_and_states` says it, and its state dict."""
    with torch.device("meta"):  # the initialisation would only be overwritten
        module = _empty(plan)
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(not lean).to(device)


def plans_and_states(zoo: Zoo, rows: Sequence[int]):
    """Of each network: its architecture, hashable, and its state dict, sharing the zoo's memory."""
    if isinstance(zoo.spec, SirenSpec):
        yield from _sirens(zoo, rows)
    elif isinstance(zoo.spec, CnnSpec):
        yield from _cnns(zoo, rows)
    elif isinstance(zoo.spec, MixedCnnSpec):
        yield from _mixed(zoo, rows)
    else:
        raise UserError(f"no PyTorch module for networks of a {type(zoo.spec).__name__}")


def _sirens(zoo: Zoo, rows: Sequence[int]):
    layers = [_in_torch_layout(layer, (0, 2, 1)) for layer in zoo.weights]
    for row in rows:
        yield zoo.spec, _state({f"layers.{i}": layer for i, layer in enumerate(layers)}, row)


def _cnns(zoo: Zoo, rows: Sequence[int]):
    spec = zoo.spec
    parts = {
        f"layers.{i}": _in_torch_layout(layer, (0, 4, 3, 1, 2))
        for i, layer in enumerate(zoo.weights["layers"])
    }
    parts["fc"] = _in_torch_layout(zoo.weights["head"], (0, 2, 1))
    choices = zoo.weights.get("activation")

    def resolved(layer: ConvLayer, row: int) -> ConvLayer:
        if layer.activation != PER_NETWORK:
            return layer
        return dataclasses.replace(layer, activation=spec.activations[int(choices[row])])

    for row in rows:
        plan = tuple(resolved(layer, row) for layer in spec.layers)
        yield (plan, spec.num_classes), _state(parts, row)


def _mixed(zoo: Zoo, rows: Sequence[int]):
    spec, programs = zoo.spec, zoo.weights["programs"]
    tables = [_in_torch_layout(table, (0, 4, 3, 1, 2)) for table in zoo.weights["tables"]]
    head = _in_torch_layout(programs["head"], (0, 2, 1))
    names = list(ACTIVATIONS)
    for row in rows:
        plan, state, channels = [], {}, spec.image_shape[2]
        for i in range(int(programs["depth"][row])):
            place = int(programs["kind"][row, i])
            kind, at = spec.kinds[place], int(programs["row"][row, i])
            layer = ConvLayer(
                channels,
                kind.outputs[2],
                kind.kernel,
                kind.stride,
                kind.padding,
                names[int(programs["activation"][row, i])],
                int(programs["residual"][row, i]),
            )
            # Tables may hold more input channels than the images have, of zeros.
            state[f"layers.{i}.weight"] = tables[place]["weight"][at, :, :channels].contiguous()
            state[f"layers.{i}.bias"] = tables[place]["bias"][at]
            plan.append(layer)
            channels = layer.out_channels
        state["fc.weight"] = head["weight"][row, :, :channels].contiguous()
        state["fc.bias"] = head["bias"][row]
        yield (tuple(plan), spec.num_classes), state


def _in_torch_layout(layer: dict[str, Any], axes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    kernel = np.ascontiguousarray(np.asarray(layer["kernel"]).transpose(axes))
    # Copies, for torch warns of memory that must not be written to.
    return {
        "weight": torch.from_numpy(kernel.copy() if kernel.base is not None else kernel),
        "bias": torch.from_numpy(np.array(layer["bias"])),
    }


def _state(parts: dict[str, dict[str, torch.Tensor]], row: int) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": tensor[row]
        for part, layer in parts.items()
        for name, tensor in layer.items()
    }
