"""The paper's three zoos as random networks of full size, and ResNets: what is timed on them.

Times do not depend on the weights, so that nothing needs to be downloaded.
"""

import dataclasses
import itertools
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import REPO
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer import ConvLayer
from probegen_jax.networks.cnn.published import small_cnn_zoo
from probegen_jax.networks.mixed_cnn import mixed
from probegen_jax.networks.resnet.resnet import ResNetSpec
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.zoo.zoo import Stored, Zoo

sys.path[:0] = [str(REPO)]

from configs import cifar10_gs, cifar10_wild_park, mnist, own_networks

_BATCH = 32  # networks, as in all configs


@dataclasses.dataclass(frozen=True)
class Case:
    """A zoo and the settings to train on it.

    Attributes:
      config: the paper's, for this zoo and number of probes.
      zoo: of random networks.
      flops_N: floating-point operations that each network and one probe need, forwards and back to
        the probe: multiplications and additions of the network's layers, nothing else.
      done: operations that our code does in lieu of them, as a share.
    """

    config: Any
    zoo: Zoo
    flops_N: np.ndarray
    done: float = 1.0


def make(name: str, networks: int, num_probes: int) -> Case:
    """A case by its name in `CASES`, with so many networks to train on and 2 batches of others."""
    return CASES[name](CONFIGS[name].get_config(str(num_probes)), networks)


def _mnist_inr(config: Any, networks: int) -> Case:
    spec = SirenSpec()
    keys_N = jax.random.split(jax.random.key(0), networks + 2 * _BATCH)
    weights = jax.jit(jax.vmap(spec.init))(keys_N)
    needed = 4 * sum(m * n for m, n in itertools.pairwise(spec.sizes))
    zoo = _zoo(spec, weights, networks, "classification", 10)
    return Case(config, zoo, np.full(len(zoo), needed))


def _cifar10_gs(config: Any, networks: int) -> Case:
    spec = small_cnn_zoo(("relu", "tanh"), config.fidelity)
    keys_N = jax.random.split(jax.random.key(0), networks + 2 * _BATCH)
    weights = jax.jit(jax.vmap(spec.init))(keys_N)
    zoo = _zoo(spec, weights, networks, "regression", 1)
    return Case(config, zoo, np.full(len(zoo), _needed(spec)))


def _wild_park(config: Any, networks: int) -> Case:
    """Five layers, 4 to 32 channels, kernels of 3 to 7: the widest settings of the original zoo."""
    rng = np.random.default_rng(0)
    specs = []
    for _ in range(networks + 2 * _BATCH):
        channels = [3, *(int(c) for c in rng.choice([4, 8, 16, 32], 5))]
        layers = []
        for index, (m, n) in enumerate(itertools.pairwise(channels)):
            kernel = int(rng.choice([3, 5, 7]))
            name = str(rng.choice(["relu", "gelu", "tanh", "sigmoid", "leaky_relu"]))
            residual = int(rng.integers(-1, index)) if index else -1
            layers.append(ConvLayer(m, n, kernel, 1, kernel // 2, name, residual))
        specs.append(CnnSpec(tuple(layers), image_shape=(32, 32, 3)))
    # By NumPy: jax would compile the drawing of every shape.
    members = [
        jax.tree.map(lambda leaf: rng.uniform(-0.1, 0.1, leaf.shape).astype(np.float32), each)
        for each in (spec.abstract() for spec in specs)
    ]
    spec, weights = mixed.build(specs, members)
    zoo = _zoo(spec, weights, networks, "regression", 1)
    needed_N = np.array([_needed(each) for each in specs])
    # The heads, which only one side of this counts, are less than a thousandth.
    return Case(config, zoo, needed_N, 2 * zoo.costs().sum() / needed_N.sum())


def _resnet18(config: Any, networks: int) -> Case:
    """ResNet-18, as libraries have it, on images of 64×64 pixels: all zeros, read when needed."""
    spec = ResNetSpec(
        widths=(64, 128, 256, 512),
        depths=(2, 2, 2, 2),
        stem_width=64,
        stem_kernel=7,
        stem_stride=2,
        stem_pool=True,
        num_classes=1000,
        image_shape=(64, 64, 3),
    )

    def read(rows_N: np.ndarray) -> Any:
        return jax.tree.map(
            lambda leaf: np.broadcast_to(np.float32(0), (len(rows_N), *leaf.shape)),
            spec.abstract(),
        )

    zoo = _zoo(spec, Stored(read), networks, "classification", 10)
    needed = []

    def convolve(layer: ConvLayer, x: jax.Array, conv: Any) -> jax.Array:
        y = layer.convolve(x, conv["kernel"])
        needed.append(4 * math.prod(y.shape[1:3]) * math.prod(conv["kernel"].shape))
        return y

    image = jax.ShapeDtypeStruct((1, *spec.image_shape), np.float32)
    jax.eval_shape(lambda x: spec.run(spec.init(jax.random.key(0)), x, convolve), image)
    return Case(config, zoo, np.full(len(zoo), sum(needed) + 4 * spec.widths[-1] * 1000))


CONFIGS = {
    "mnist_inr": mnist,
    "cifar10_gs": cifar10_gs,
    "wild_park": cifar10_wild_park,
    "resnet18": own_networks,
}
CASES = {
    "mnist_inr": _mnist_inr,
    "cifar10_gs": _cifar10_gs,
    "wild_park": _wild_park,
    "resnet18": _resnet18,
}


def _zoo(spec: Any, weights: Any, networks: int, task: Any, outputs: int) -> Zoo:
    weights = weights if isinstance(weights, Stored) else jax.tree.map(np.asarray, weights)
    number = networks + 2 * _BATCH
    train, val, test = np.split(np.arange(number, dtype=np.int32), [networks, networks + _BATCH])
    splits = {"train": train, "val": val, "test": test}
    rng = np.random.default_rng(1)
    if task == "classification":
        targets_N = rng.integers(outputs, size=number).astype(np.int32)
    else:
        targets_N = rng.random(number, np.float32)
    return Zoo("random", spec, weights, targets_N, splits, task, outputs)


def _needed(spec: CnnSpec) -> int:
    """Operations that one network needs for one probe, forwards and back."""
    convolutions = sum(
        math.prod(size) * layer.kernel**2 * layer.in_channels * layer.out_channels
        for layer, size in zip(spec.layers, spec.sizes, strict=True)
    )
    return 4 * (convolutions + spec.layers[-1].out_channels * spec.num_classes)


@dataclasses.dataclass(frozen=True)
class NaiveSiren(SirenSpec):
    """What comes to mind first: a matmul and `jnp.sin` for each layer, under `jax.vmap`."""

    def apply(self, weights, probes):
        x = probes
        for layer in weights[:-1]:
            x = jnp.sin(self.w0 * (x @ layer["kernel"] + layer["bias"][None]))
        return x @ weights[-1]["kernel"] + weights[-1]["bias"][None] + self.output_shift


@dataclasses.dataclass(frozen=True)
class NaiveCnn(CnnSpec):
    """The plain application of one network, under `jax.vmap`."""

    def respond(self, weights, probes):
        return jax.vmap(self.apply, in_axes=(0, None))(weights, probes)


def naive(zoo: Zoo) -> Zoo | None:
    """The same zoo, run naively; None where architectures differ, and vmap cannot."""
    for plain, kind in ((SirenSpec, NaiveSiren), (CnnSpec, NaiveCnn)):
        if isinstance(zoo.spec, plain):
            fields = {f.name: getattr(zoo.spec, f.name) for f in dataclasses.fields(plain)}
            return dataclasses.replace(zoo, spec=kind(**fields))
    return None
