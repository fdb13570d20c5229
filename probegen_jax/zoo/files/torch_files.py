"""Torch files in and out: the only module that imports torch, and only when it is called.

Nothing from a file is ever executed: `torch.load(weights_only=True)` with no more allowed than the
OmegaConf containers that the CNN Wild Park's checkpoints are made of.
"""

import collections
import dataclasses
import io
import pathlib
import re
import typing
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from probegen_jax.errors import BadNetworkError, UserError
from probegen_jax.files import replacing
from probegen_jax.zoo.files import archives

State = dict[str, np.ndarray]
Content = bytes | pathlib.Path

_MANY = 2**24  # values that a tensor may have of fewer stored ones, by repeating them

_INSTALL = "install what torch files need: pip install -r requirements-torch.txt"


@dataclasses.dataclass(frozen=True)
class InrFile:
    """An INR as stored: arrays in torch's layout, (out, in), and the class that some zoos store."""

    state: State
    label: int | None


@dataclasses.dataclass(frozen=True)
class CnnFile:
    """A CNN as stored: arrays in torch's layout, (out, in, k, k), and the architecture."""

    state: State
    config: dict[str, Any]
    score: float | None = None
    iteration: int | None = None


def load_inr(content: Content, network: str) -> InrFile:
    """Reads an INR's state dict, with or without the key `label`.

    A `BadNetworkError` if the file cannot be read or is something else.
    """
    state = _state_dict(content, network)
    label = state.pop("label", None)
    return InrFile(_arrays(state, network), None if label is None else whole_number(label, network))


def load_cnn(content: Content, network: str) -> CnnFile:
    """Reads a checkpoint `{"model", "config", "last_result", "iteration"}` of the CNN Wild Park.

    A network of the Small CNN Zoo in torch form, `{"model", "activation"}`, is read as well; its
    config is then `{"activation": ...}`. A `BadNetworkError` if the file cannot be read or is
    something else.
    """
    loaded = _load(content, network, containers=True)
    if not isinstance(loaded, Mapping) or not isinstance(loaded.get("model"), Mapping):
        raise BadNetworkError(network, "holds no state dict under the key 'model'")
    config = loaded.get("config")
    if config is None and "activation" in loaded:
        config = {"activation": loaded["activation"]}
    result = loaded.get("last_result")
    score = result.get("test/acc") if isinstance(result, Mapping) else None
    if score is not None and not isinstance(score, int | float):
        raise BadNetworkError(network, f"its 'test/acc' is a {type(score).__name__}, not a number")
    iteration = loaded.get("iteration")
    return CnnFile(
        _arrays(dict(loaded["model"]), network),
        _plain(config, network),
        None if score is None else float(score),
        None if iteration is None else whole_number(iteration, network),
    )


def save_inr(path: pathlib.Path, state: Mapping[str, np.ndarray], label: int | None = None) -> None:
    """Writes an INR as the published zoos do: an `OrderedDict` of tensors, and maybe `label`."""
    tensors = _tensors(state)
    _save(path, tensors if label is None else tensors | {"label": label})


def save_cnn(path: pathlib.Path, network: CnnFile) -> None:
    """Writes a CNN as a Wild Park checkpoint, with a plain dict for its OmegaConf config."""
    model = _tensors(network.state)
    content: dict[str, Any] = {"model": model, "optimizer": {}, "config": network.config}
    if network.score is not None:
        content["last_result"] = {"test/acc": network.score}
    if network.iteration is not None:
        content["iteration"] = network.iteration
    _save(path, content)


def load_state_dict(path: pathlib.Path) -> State:
    """Reads a file of named tensors, such as a predictor that PyTorch code trained.

    Arrays are in the file's order and in torch's layout.
    """
    if not path.is_file():
        raise UserError(f"no file at {path}; give the path of a .pth that torch.save wrote")
    try:
        return _arrays(_state_dict(path, str(path)), str(path))
    except BadNetworkError as error:
        raise UserError(
            f"{path}: {error.fault}; give the state dict of a predictor, as torch.save writes it"
        ) from error


def save_state_dict(path: pathlib.Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes named tensors as `torch.save(model.state_dict(), path)` does; their order is kept."""
    _save(path, _tensors(state))


def _save(path: pathlib.Path, content: Any) -> None:
    """Writes a file of torch: it is whole or not there."""
    # Not one by one to the disk, for there may be tens of thousands. A file that torch opens itself
    # would hold its temporary name.
    with replacing(path, sync=False) as temporary, temporary.open("wb") as file:
        _torch().save(content, file)


def uniform(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """What `torch.rand(shape)` gives on the CPU right after `torch.manual_seed(seed)`."""
    torch = _torch()
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).numpy()


def _torch() -> Any:
    try:
        import torch  # gigabytes on many machines, and only torch files need it
    except ImportError as error:
        raise UserError(f"torch is not installed; {_INSTALL}") from error
    return torch


def _load(content: Content, network: str, containers: bool = False) -> Any:
    torch = _torch()
    allowed = _containers() if containers else []
    if isinstance(content, pathlib.Path):
        try:
            content = content.read_bytes()
        except OSError as error:
            raise BadNetworkError(network, f"cannot be read ({error.strerror})") from error
    if not content:
        raise BadNetworkError(network, "is an empty file")
    archives.refuse_bomb(content, network)
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            # Torch warns of pickle protocols it may not know; such files either load or raise.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # bytes from elsewhere: torch raises whatever it stumbles over
        raise BadNetworkError(network, _fault(error, content)) from error


def _state_dict(content: Content, network: str) -> dict[Any, Any]:
    loaded = _load(content, network)
    if not isinstance(loaded, Mapping):
        raise BadNetworkError(network, f"holds a {type(loaded).__name__}, not a state dict")
    return dict(loaded)


def _fault(error: Exception, content: bytes) -> str:
    if wanted := re.search(r"GLOBAL ([\w.]+)", str(error)):
        what = f"its pickle asks for {wanted[1]}, which no network needs"
        return f"{what}; refused without running it"
    if "Weights only load failed" in str(error):
        return "is not a file of plain tensors; refused without running anything from it"
    if content.startswith(b"PK"):
        return "is truncated or damaged (not a complete zip archive)"
    return f"is not a readable torch file ({type(error).__name__})"


def _containers() -> list[Any]:
    """What the Wild Park's pickled configs are made of, and nothing more."""
    try:
        from omegaconf import base, dictconfig, listconfig, nodes
    except ImportError as error:
        raise UserError(f"omegaconf is not installed; {_INSTALL}") from error
    return [
        *(dictconfig.DictConfig, listconfig.ListConfig, base.ContainerMetadata, base.Metadata),
        *(nodes.AnyNode, nodes.IntegerNode, nodes.FloatNode, nodes.StringNode, nodes.BooleanNode),
        # Their module and name differ from version to version, so both are given.
        (typing.Any, "typing.Any"),
        (typing.List, "typing.List"),  # noqa: UP006  the pickle names this very object
        *(collections.defaultdict, dict, list, int, float, str, bool),
        (_CNNConfig, "create_random_cnns.CNNConfig"),
    ]


class _CNNConfig:
    """Stands in for the sampler's own class, which configs name as their type and never create."""


def _plain(config: Any, network: str) -> dict[str, Any]:
    if isinstance(config, dict):
        return dict(config)
    from omegaconf import DictConfig, OmegaConf

    if not isinstance(config, DictConfig):
        raise BadNetworkError(network, "holds no architecture under the key 'config'")
    try:
        # Unresolved: an interpolation could read the environment.
        plain = OmegaConf.to_container(config, resolve=False)
        return {str(key): value for key, value in plain.items()}
    except Exception as error:  # a container built by a hostile pickle can be broken in any way
        raise BadNetworkError(network, "its 'config' is not a readable OmegaConf") from error


def _arrays(state: Mapping[Any, Any], network: str) -> State:
    torch = _torch()
    arrays: State = {}
    for key, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise BadNetworkError(network, f"{key} is a {type(tensor).__name__}, not a tensor")
        if tensor.layout != torch.strided or tensor.is_meta:
            raise BadNetworkError(network, f"{key} is sparse or has no values, not a plain tensor")
        if tensor.numel() > max(_MANY, tensor.untyped_storage().nbytes()):
            raise BadNetworkError(network, f"{key} announces more values than the file holds")
        if tensor.dtype != torch.float32:
            raise BadNetworkError(
                network,
                f"{key} is {str(tensor.dtype).removeprefix('torch.')}, not float32",
                "save the network with .float()",
            )
        arrays[str(key)] = tensor.detach().numpy()
    return arrays


def _tensors(state: Mapping[str, np.ndarray]) -> "collections.OrderedDict[str, Any]":
    torch = _torch()
    return collections.OrderedDict(
        (key, torch.tensor(np.ascontiguousarray(array))) for key, array in state.items()
    )


def whole_number(value: Any, network: str) -> int:
    """A label or count as stored: a number, or an array or tensor of one that is whole."""
    try:
        number = int(value.item() if hasattr(value, "item") else value)
        if number == value:
            return number
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass  # told below
    shown = " ".join(repr(value).split())[:80]
    raise BadNetworkError(network, f"{shown} is not an integer label or count")
