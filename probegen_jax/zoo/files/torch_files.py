"""Torch files in and out: the only module that imports torch, and only when it is called.

Nothing from a file is ever executed: `torch.load(weights_only=True)` with no more allowed than the
OmegaConf containers that the CNN Wild Park's checkpoints are made of, and stand-ins of our own for
what trainings keep beside the weights; see `stand_ins`.
"""

import collections
import functools
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
from probegen_jax.zoo.files import archives, stand_ins, state_dicts
from probegen_jax.zoo.files.state_dicts import CnnFile, InrFile, State, Want

Content = bytes | pathlib.Path

_INSTALL = "install what torch files need: pip install -r requirements-torch.txt"


def load_inr(content: Content, network: str, want: Want | None = None) -> InrFile:
    """Reads an INR's state dict, with or without the key `label`.

    It may lie in a dict of other things, see `state_dicts`. A `BadNetworkError` if the file cannot
    be read or is something else.
    """
    return state_dicts.inr(_load(read_bytes(content, network), network), network, want or Want())


def load(content: Content, network: str) -> Any:
    """What a file holds; a `BadNetworkError` if it cannot be read or wants code to run."""
    return _load(read_bytes(content, network), network)


def load_cnn(content: Content, network: str, want: Want | None = None) -> CnnFile:
    """Reads a checkpoint `{"model", "config", "last_result", "iteration"}` of the CNN Wild Park.

    A network of the Small CNN Zoo in torch form, `{"model", "activation"}`, is read as well; its
    config is then `{"activation": ...}`. A `BadNetworkError` if the file cannot be read or is
    something else.
    """
    loaded = _load(read_bytes(content, network), network)
    return state_dicts.cnn(loaded, network, want or Want(), lambda config: _plain(config, network))


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
        return state_dicts.any_of(_load(read_bytes(path, str(path)), str(path)), str(path))
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


def read_bytes(content: Content, network: str) -> bytes:
    """The bytes of a network's file; a `BadNetworkError` if there are none."""
    if isinstance(content, pathlib.Path):
        try:
            content = content.read_bytes()
        except OSError as error:
            raise BadNetworkError(network, f"cannot be read ({error.strerror})") from error
    return content


def _load(content: bytes, network: str) -> Any:
    torch = _torch()
    if not content:
        raise BadNetworkError(network, "is an empty file")
    archives.refuse_bomb(content, network)
    try:
        with torch.serialization.safe_globals(_allowed()), warnings.catch_warnings():
            # Torch warns of pickle protocols it may not know; such files either load or raise.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # bytes from elsewhere: torch raises whatever it stumbles over
        raise BadNetworkError(network, _fault(error, content)) from error


def _fault(error: Exception, content: bytes) -> str:
    names = [member.filename for member in archives.members_of(content)]
    for inside, program in (("/constants.pkl", "TorchScript"), ("/archive_format", "torch.export")):
        if any(name.endswith(inside) for name in names):
            return f"is a {program} program, not a state dict; save its state_dict() by torch.save"
    if wanted := re.search(r"GLOBAL ([\w.]+)", str(error)):
        what = f"its pickle asks for {wanted[1]}, which no network needs"
        return f"{what}; refused without running it; save model.state_dict() alone"
    if "Weights only load failed" in str(error):
        return "is not a file of plain tensors; refused without running anything from it"
    if content.startswith(b"PK"):
        return "is truncated or damaged (not a complete zip archive)"
    return f"is not a readable torch file ({type(error).__name__})"


@functools.cache
def _allowed() -> list[Any]:
    """What a file may ask for besides what torch allows: no more than is inert."""
    try:
        from omegaconf import base, dictconfig, listconfig, nodes
    except ImportError:
        return [*stand_ins.ALLOWED, *stand_ins.instead_of_omegaconf()]
    return [
        *stand_ins.ALLOWED,
        # What the Wild Park's pickled configs are made of.
        *(dictconfig.DictConfig, listconfig.ListConfig, base.ContainerMetadata, base.Metadata),
        *(nodes.AnyNode, nodes.IntegerNode, nodes.FloatNode, nodes.StringNode, nodes.BooleanNode),
        # Their module and name differ from version to version, so both are given.
        (typing.Any, "typing.Any"),
        (typing.List, "typing.List"),  # noqa: UP006  the pickle names this very object
        *(collections.defaultdict, dict, list, int, float, str, bool),
    ]


def _plain(config: Any, network: str) -> dict[str, Any]:
    if isinstance(config, dict):
        return dict(config)
    try:
        from omegaconf import DictConfig, OmegaConf
    except ImportError as error:
        raise UserError(f"omegaconf is not installed; {_INSTALL}") from error
    if not isinstance(config, DictConfig):
        raise BadNetworkError(network, "holds no architecture under the key 'config'")
    try:
        # Unresolved: an interpolation could read the environment.
        plain = OmegaConf.to_container(config, resolve=False)
        return {str(key): value for key, value in plain.items()}
    except Exception as error:  # a container built by a hostile pickle can be broken in any way
        raise BadNetworkError(network, "its 'config' is not a readable OmegaConf") from error


def _tensors(state: Mapping[str, np.ndarray]) -> "collections.OrderedDict[str, Any]":
    torch = _torch()
    return collections.OrderedDict(
        (key, torch.tensor(np.ascontiguousarray(array))) for key, array in state.items()
    )
