"""Specs and weights of CNNs from what published zoos say of them.

The Small CNN Zoo (Unterthiner et al., 2020) and the CNN Wild Park (Kofinas et al., 2024).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from probegen_jax.errors import UserError
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer import PER_NETWORK, ConvLayer
from probegen_jax.networks.pixels import Pixels

Fidelity = Literal["faithful", "official"]

# How the Wild Park's images are normalised: CIFAR-10's statistics, as the official code has them.
CIFAR10 = Pixels((0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784))


def signed(channels: int) -> Pixels:
    """Images in [-1, 1], as the Small CNN Zoo's are."""
    return Pixels((0.5,) * channels, (0.5,) * channels)


def small_cnn_zoo(
    activation: str | tuple[str, ...] = ("relu", "tanh"),
    fidelity: Fidelity = "faithful",
    in_channels: int = 1,
    side: int = 32,
) -> CnnSpec:
    """The networks of the Small CNN Zoo: three 3×3 convolutions of 16 channels with stride 2.

    Args:
      activation: of every network, or the choices where each network has its own.
      fidelity: "faithful" runs valid convolutions, as the networks were trained; "official" pads
        by one pixel, as ProbeGen's published code does, which is another function.
      in_channels: 1; the zoo's images are the mean over channels, in [-1, 1].
      side: of these images: 32 of CIFAR-10 and SVHN, 28 of MNIST and Fashion-MNIST.
    """
    padding = {"faithful": 0, "official": 1}[_checked(fidelity)]
    name, choices = (activation, ()) if isinstance(activation, str) else (PER_NETWORK, activation)
    return CnnSpec(
        layers=tuple(
            ConvLayer(channels, 16, kernel=3, stride=2, padding=padding, activation=name)
            for channels in (in_channels, 16, 16)
        ),
        image_shape=(side, side, in_channels),
        activations=choices,
        pixels=signed(in_channels),
    )


def wild_park(
    config: Mapping[str, Any],
    fidelity: Fidelity = "faithful",
    network: str = "?",
    image_size: tuple[int, int] = (32, 32),
    pixels: Pixels = CIFAR10,
) -> CnnSpec:
    """The architecture of a CNN Wild Park network.

    Args:
      config: the checkpoint's: `channels` (one more than layers), and per layer `kernel_size`,
        `stride`, `padding`, `activation`, `residual` (`residual` may be absent); `n_classes`.
      fidelity: "faithful" keeps residual links; "official" drops them, as ProbeGen's published
        code does, which is another function.
      pixels: how the images were normalised.

    Raises:
      UserError: lists of different lengths, or an architecture that cannot be.
    """
    channels: Sequence[int] = config["channels"]
    depth = len(channels) - 1
    per_layer = {name: config[name] for name in ("kernel_size", "stride", "padding", "activation")}
    links = config.get("residual") if _checked(fidelity) == "faithful" else None
    per_layer["residual"] = links or [-1] * depth
    for name, values in per_layer.items():
        if len(values) != depth:
            raise UserError(
                f"network {network}: {name} has {len(values)} entries for {depth} layers"
            )
    try:
        return CnnSpec(
            layers=tuple(
                ConvLayer(m, n, *(values[index] for values in per_layer.values()))
                for index, (m, n) in enumerate(itertools.pairwise(channels))
            ),
            num_classes=config.get("n_classes", 10),
            image_shape=(*image_size, channels[0]),
            pixels=pixels,
        )
    except UserError as error:
        raise UserError(f"network {network}: {error}") from error


def _checked(fidelity: str) -> str:
    if fidelity not in ("faithful", "official"):
        raise UserError(f"fidelity is {fidelity!r}; it must be 'faithful' or 'official'")
    return fidelity
