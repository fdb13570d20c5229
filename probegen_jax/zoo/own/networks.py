"""Networks that a user brings one by one: files or state dicts, read as a run's zoo holds them."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from probegen_jax.errors import UserError
from probegen_jax.networks.cnn import published
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer import PER_NETWORK
from probegen_jax.networks.contract import NetworkSpec
from probegen_jax.networks.mixed_cnn import mixed
from probegen_jax.networks.mixed_cnn.mixed import MixedCnnSpec
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.zoo import flat_weights
from probegen_jax.zoo.bad_networks import BadNetworkError, check_finite
from probegen_jax.zoo.files import inr_files, torch_files
from probegen_jax.zoo.files.inr_files import InrKeys
from probegen_jax.zoo.prepared import layer_table

# A file, or what torch or safetensors would give of it.
Source = pathlib.Path | Mapping[str, Any]


@runtime_checkable
class Reader(Protocol):
    """How networks of one kind are read and put together."""

    @property
    def expected(self) -> str:
        """What a network must be, in a few words."""
        ...

    def read(self, source: Source, name: str) -> Any:
        """One network; a `BadNetworkError` says why it cannot be used."""
        ...

    def stack(self, networks: Sequence[Any]) -> tuple[NetworkSpec, Any]:
        """Networks as `read` gives them, as a spec and stacked weights."""
        ...


@dataclasses.dataclass(frozen=True)
class SirenReader:
    """Reads INRs of one architecture.

    Attributes:
      spec: of the networks.
      keys: how their arrays are named.
    """

    spec: SirenSpec
    keys: InrKeys

    @property
    def expected(self) -> str:
        """See `Reader`."""
        widths = "→".join(map(str, self.spec.sizes))
        depth = len(self.spec.sizes) - 1
        first, last = self.keys.of(0, depth), self.keys.of(depth - 1, depth)
        return f"a SIREN {widths} in float32, with arrays {first}.weight to {last}.bias"

    def read(self, source: Source, name: str) -> np.ndarray:
        """See `Reader`."""
        if isinstance(source, pathlib.Path):
            state = inr_files.read(source, name).state
        else:
            state = _arrays({key: source[key] for key in source if key != "label"}, name)
        return inr_files.to_vector(state, name, self.spec, self.keys)

    def stack(self, networks: Sequence[np.ndarray]) -> tuple[SirenSpec, Any]:
        """See `Reader`."""
        return self.spec, flat_weights.unflatten(np.stack(networks), self.spec.abstract())


@dataclasses.dataclass(frozen=True)
class CnnReader:
    """Reads CNNs of one architecture, each with an activation of its own.

    Attributes:
      spec: of the networks.
    """

    spec: CnnSpec

    @property
    def expected(self) -> str:
        """See `Reader`."""
        channels = [self.spec.layers[0].in_channels, *(x.out_channels for x in self.spec.layers)]
        return (
            f"a CNN of {'→'.join(map(str, channels))} channels and {self.spec.num_classes} classes "
            "with arrays layers.0.weight to fc.bias, and its activation: one of "
            f"{', '.join(self.spec.activations)}"
        )

    def read(self, source: Source, name: str) -> Any:
        """See `Reader`."""
        file = _cnn_file(source, name)
        check_finite(name, file.state)
        chosen = file.config.get("activation")
        if isinstance(chosen, list) and len(set(chosen)) == 1:
            chosen = chosen[0]
        if chosen not in self.spec.activations:
            raise BadNetworkError(name, f"its activation is {chosen!r}")
        try:
            weights = published.from_torch(file.state)
            weights["activation"] = np.int32(self.spec.activations.index(chosen))
            self.spec.check(weights, name)
        except KeyError as error:
            raise BadNetworkError(name, f"has no {error.args[0]}") from error
        except UserError as error:
            raise BadNetworkError(name, _fault(error, name)) from error
        return weights

    def stack(self, networks: Sequence[Any]) -> tuple[CnnSpec, Any]:
        """See `Reader`."""
        import jax

        return self.spec, jax.tree.map(lambda *leaves: np.stack(leaves), *networks)


@dataclasses.dataclass(frozen=True)
class MixedReader:
    """Reads CNNs of any architecture, as the CNN Wild Park's checkpoints describe theirs.

    Attributes:
      image_shape: height, width and channels of the images that all networks read.
      num_classes: outputs of every network.
      fidelity: whether residual links are kept ("faithful") or dropped ("official").
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    fidelity: published.Fidelity

    @property
    def expected(self) -> str:
        """See `Reader`."""
        return (
            f"a CNN of the Wild Park's form for images of {self.image_shape[2]} channels and "
            f"{self.num_classes} classes, with its config"
        )

    def read(self, source: Source, name: str) -> tuple[CnnSpec, Any]:
        """See `Reader`."""
        file = _cnn_file(source, name)
        network = layer_table.from_torch(file.state, file.config, name)
        channels = int(network.layers[0, 0])
        if channels != self.image_shape[2]:
            raise BadNetworkError(name, f"reads images of {channels} channels")
        if network.num_classes != self.num_classes:
            raise BadNetworkError(name, f"has {network.num_classes} classes")
        try:
            spec = published.wild_park(network.config(), self.fidelity, name)
            spec = dataclasses.replace(spec, image_shape=self.image_shape)
        except UserError as error:
            raise BadNetworkError(name, _fault(error, name)) from error
        return spec, network.arrays()

    def stack(self, networks: Sequence[tuple[CnnSpec, Any]]) -> tuple[MixedCnnSpec, Any]:
        """See `Reader`."""
        specs, weights = zip(*networks, strict=True)
        return mixed.build(specs, weights)


def find_files(names: Sequence[str | pathlib.Path]) -> list[pathlib.Path]:
    """Files as they are named; of a folder all network files in it, n2 before n10.

    Args:
      names: of files and folders. A file that is not there is kept: it gets a row of its own.

    Raises:
      UserError: a folder without network files.
    """
    found: list[pathlib.Path] = []
    for path in map(pathlib.Path, names):
        if not path.is_dir():
            found.append(path)
            continue
        inside = [
            each
            for each in path.rglob("*")
            if each.suffix in inr_files.SUFFIXES and not each.name.startswith(".")
        ]
        if not inside:
            raise UserError(
                f"{path}: no network files here; they end in {', '.join(inr_files.SUFFIXES)}"
            )
        found += sorted(inside, key=_natural)
    return found


def _natural(path: pathlib.Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def _fault(error: UserError, name: str) -> str:
    """What is wrong, without the name that a row has anyway."""
    return str(error).removeprefix(f"network {name}: ")


def _cnn_file(source: Source, name: str) -> torch_files.CnnFile:
    if not isinstance(source, pathlib.Path):
        state, config = source.get("model"), source.get("config")
        if config is None and "activation" in source:
            config = {"activation": source["activation"]}
        if not isinstance(state, Mapping) or not isinstance(config, Mapping):
            raise BadNetworkError(name, "must be a dict with the keys 'model' and 'config'")
        return torch_files.CnnFile(_arrays(state, name), dict(config))
    if source.suffix != ".safetensors":
        return torch_files.load_cnn(source, name)
    state = inr_files.read(source, name).state
    from safetensors import safe_open

    with safe_open(source, "numpy") as file:
        text = (file.metadata() or {}).get("config")
    try:
        config = json.loads(text or "null")
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise BadNetworkError(name, "its metadata has no architecture under 'config', as JSON")
    return torch_files.CnnFile(state, config)


def _arrays(state: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """Arrays or tensors as arrays."""
    found = {}
    for key, value in state.items():
        if hasattr(value, "detach"):  # a torch tensor, maybe with a gradient or on a GPU
            value = value.detach().cpu()
        array = np.asarray(value)
        if array.dtype != np.float32:
            raise BadNetworkError(name, f"{key} is {array.dtype}, not float32")
        found[str(key)] = array
    return found


def reader_for(spec: NetworkSpec, fidelity: published.Fidelity, keys: InrKeys) -> Reader:
    """The reader of networks like a zoo's.

    Args:
      spec: of the zoo.
      fidelity: that CNNs are run with.
      keys: how arrays of INRs are named.
    """
    if isinstance(spec, SirenSpec):
        return SirenReader(spec, keys)
    if isinstance(spec, MixedCnnSpec):
        return MixedReader(spec.image_shape, spec.num_classes, fidelity)
    if isinstance(spec, CnnSpec) and all(x.activation == PER_NETWORK for x in spec.layers):
        return CnnReader(spec)
    raise UserError(
        f"cannot read files of networks like {type(spec).__name__}; give their stacked weights"
    )
