"""Flax layers with PyTorch's default initialisation, which the published figures rest on."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from probegen_jax.networks.activations import ACTIVATIONS

Matmul = Callable[[jax.Array, jax.Array], jax.Array]


def uniform_fan_in(fan_in: int) -> nnx.Initializer:
    """U(±1/√fan_in), what `torch.nn.Linear` and `ConvTranspose2d` draw kernels and biases from.

    Args:
      fan_in: as PyTorch counts it: inputs of a Linear; of a ConvTranspose2d, *output* channels
        times kernel area, since its weight is stored as (in, out, k, k) and axis 1 is counted.
    """
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding  # Flax passes it to initialisers that can place their result
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def dense(in_features: int, out_features: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer, kernel (in, out), as `torch.nn.Linear` initialises it."""
    init = uniform_fan_in(in_features)
    return nnx.Linear(in_features, out_features, kernel_init=init, bias_init=init, rngs=rngs)


def by_rows(layer: nnx.Linear, x: Float[Array, "B P I"]) -> Float[Array, "B P O"]:
    """What the layer gives, where it has many rows and is narrow: see `cpu_matmul`."""
    return cpu_matmul(x, layer.kernel[...]) + layer.bias[...].reshape(1, 1, -1)


def in_blocks(
    function: Callable[[jax.Array], jax.Array], x: Float[Array, "B P I"], rows: int
) -> Float[Array, "B P O"]:
    """What a function of rows gives, for so many of them after another.

    What it computes on the way stays in the cache of a CPU's core, and is computed again for the
    gradient, which takes less time than to fetch it from memory. There is at least one whole block.
    """
    rows_QxI = x.reshape(-1, x.shape[-1])
    whole = len(rows_QxI) - len(rows_QxI) % rows
    blocks = rows_QxI[:whole].reshape(-1, 1, rows, x.shape[-1])
    parts = [jax.lax.map(jax.checkpoint(function), blocks)]
    if whole < len(rows_QxI):
        parts.append(function(rows_QxI[None, whole:]))
    out_QxO = jnp.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])
    return out_QxO.reshape(*x.shape[:-1], -1)


def through(
    layers: Iterable[Callable[..., jax.Array]], activation: str, x: jax.Array, *args: Any
) -> jax.Array:
    """Layers one after the other, with an activation of `ACTIVATIONS` between them."""
    for n, layer in enumerate(layers):
        x = layer(ACTIVATIONS[activation](x) if n else x, *args)
    return x


class ConvTranspose(nnx.Module):
    """`torch.nn.ConvTranspose2d`, number for number, as matmuls.

    The kernel is (k, k, in, out) and *scatters*: pixel (i, j) of the input adds
    `x[i, j] @ kernel[u, v]` to pixel (stride·i + u − padding, stride·j + v − padding) of the
    output. So PyTorch's weight (in, out, k, k) becomes ours by a transposition, (2, 3, 0, 1), with
    no flip.

    XLA's convolution with a dilated input is 9 times slower on a CPU (forward and backward of the
    five-layer generator, 128 probes: 960 ms against 100), and far more under a `vmap` over seeds,
    where it becomes a grouped convolution; matmuls stay matmuls.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        rngs: nnx.Rngs,
    ):
        """Args:
        size: k, height and width of the kernel; a multiple of `stride`.
        stride: pixels of output per pixel of input.
        padding: pixels cut off the output on every side.
        """
        if size % stride:
            raise ValueError(f"kernel size {size} is not a multiple of stride {stride}")
        init = uniform_fan_in(out_channels * size**2)
        shape = (size, size, in_channels, out_channels)
        self.kernel = nnx.Param(init(rngs.params(), shape))
        self.bias = nnx.Param(init(rngs.params(), (out_channels,)))
        self.stride = stride
        self.padding = padding

    def __call__(
        self,
        x: Float[Array, "P H W C"],
        bias_scale_P: Float[Array, " P"] | None = None,
        platform: str = "cpu",
    ) -> Float[Array, "P h w c"]:
        """The output; each image gets `bias_scale_P` of the bias, by default all of it.

        Args:
          platform: of the devices that it is to run on, see `networks.contract.Options`.
        """
        matmul = cpu_matmul if platform == "cpu" else jnp.matmul
        kernel = self.kernel[...]
        size, stride = kernel.shape[0], self.stride
        height, width, in_channels = x.shape[1:]
        out_channels = kernel.shape[-1]
        # Whole blocks of the padding need not be computed.
        blocks = min(self.padding // stride, size // stride - 1)
        if height == width == 1:
            y, blocks = _from_one_pixel(x, kernel), 0
        elif in_channels <= stride**2 * out_channels:
            y = _gather(x, kernel, stride, blocks, matmul)
        else:
            y = _scatter(x, kernel, stride, blocks, matmul)
        cut = self.padding - blocks * stride
        y = y[:, cut : y.shape[1] - cut, cut : y.shape[2] - cut]
        bias = self.bias[...].reshape(1, 1, 1, -1)
        if bias_scale_P is not None:
            bias = bias_scale_P.reshape(-1, 1, 1, 1) * bias
        return y + bias


# The three forms below return the output before cropping but for `cut` blocks on every side:
# (P, T·s, T·s, out), where T = H + m − 1 − 2·cut and the kernel is m strides wide. They differ in
# what they have to store.


def _from_one_pixel(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The latent layer: no overlaps, one matmul."""
    size, _, in_channels, out_channels = kernel.shape
    flat = kernel.transpose(2, 0, 1, 3).reshape(in_channels, -1)
    return (x.reshape(-1, in_channels) @ flat).reshape(-1, size, size, out_channels)


def _gather(x: jax.Array, kernel: jax.Array, stride: int, cut: int, matmul: Matmul) -> jax.Array:
    """Each stride×stride block of output from the m×m inputs that reach it: few input channels."""
    m = kernel.shape[0] // stride
    pad = m - 1 - cut
    rows, cols = (side + 2 * pad - m + 1 for side in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = [
        padded[:, m - 1 - i : m - 1 - i + rows, m - 1 - j : m - 1 - j + cols]
        for i in range(m)
        for j in range(m)
    ]
    by_phase = _split_phases(kernel, stride).transpose(0, 2, 4, 1, 3, 5)
    flat = by_phase.reshape(m * m * x.shape[-1], -1)
    return _interleave(matmul(jnp.concatenate(windows, -1), flat), stride)


def _scatter(x: jax.Array, kernel: jax.Array, stride: int, cut: int, matmul: Matmul) -> jax.Array:
    """Each input pixel's m×m blocks of output, added where they overlap: few output channels."""
    m = kernel.shape[0] // stride
    by_phase = _split_phases(kernel, stride).transpose(4, 0, 2, 1, 3, 5)
    blocks = matmul(x, by_phase.reshape(x.shape[-1], -1))
    blocks = blocks.reshape(*x.shape[:3], m, m, -1)
    zero = jnp.zeros((), x.dtype)

    def shifted(i: int, j: int) -> jax.Array:
        sides = [(shift - cut, m - 1 - shift - cut, 0) for shift in (i, j)]
        return jax.lax.pad(blocks[:, :, :, i, j], zero, [(0, 0, 0), *sides, (0, 0, 0)])

    overlapping = [shifted(i, j) for i in range(m) for j in range(m)]
    return _interleave(sum(overlapping[1:], overlapping[0]), stride)


@jax.custom_vjp
def cpu_matmul(x: jax.Array, kernel_IxO: jax.Array) -> jax.Array:
    """Rows times a kernel, with a faster way to the kernel's gradient.

    That gradient sums over rows (Q, the pixels of all images), and XLA's fast matmuls sum over the
    columns of what comes first: so the narrower of the two is turned round beforehand.
    """
    return x @ kernel_IxO


def _matmul_forward(x, kernel_IxO):
    return x @ kernel_IxO, (x, kernel_IxO)


def _matmul_back(kept, g):
    x, kernel_IxO = kept
    x_QxI, g_QxO = (rows.reshape(-1, rows.shape[-1]) for rows in (x, g))
    # The barriers keep XLA from folding the transpositions into the matmul again.
    barrier = jax.lax.optimization_barrier
    if kernel_IxO.shape[0] < kernel_IxO.shape[1]:
        g_kernel = barrier(x_QxI.T) @ g_QxO
    else:
        g_kernel = barrier(barrier(g_QxO.T) @ x_QxI).T
    return (g_QxO @ kernel_IxO.T).reshape(x.shape), g_kernel


cpu_matmul.defvjp(_matmul_forward, _matmul_back)


def _split_phases(kernel: jax.Array, stride: int) -> jax.Array:
    """(k, k, in, out) to (m, s, m, s, in, out): which block, and where in the block."""
    m = kernel.shape[0] // stride
    return kernel.reshape(m, stride, m, stride, *kernel.shape[2:])


def _interleave(blocks: jax.Array, stride: int) -> jax.Array:
    """(P, H, W, s·s·out) to (P, H·s, W·s, out): blocks side by side as pixels."""
    num, height, width, _ = blocks.shape
    pixels = blocks.reshape(num, height, width, stride, stride, -1).transpose(0, 1, 3, 2, 4, 5)
    return pixels.reshape(num, height * stride, width * stride, -1)
