"""Statistics of the weights of networks of different architectures."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from probegen_jax.networks.mixed_cnn.kinds import Kind
from probegen_jax.networks.statistics import STATISTICS, of_rows

# Five times those of a layer's kernel and bias, those of the linear layer's, the depth.
NUMBER = 12 * STATISTICS + 1


def of_networks(kinds: Sequence[Kind], channels: int, weights: Any) -> Float[Array, "B F"]:
    """Statistics of kernels and biases, the same number for networks of any depth.

    Of the convolutions the mean, least and most over layers, then those of the first, of the last
    and of the linear layer; and how many convolutions there are.

    Args:
      channels: of images; the kernels of first layers may be stored with one more, of zeros.
      weights: see `MixedCnnSpec`.
    """
    programs = weights["programs"]
    kinds_BxL, rows_BxL = programs["kind"], programs["row"]
    batch, depth = kinds_BxL.shape
    found_BxLxF = jnp.zeros((batch, depth, 2 * STATISTICS))
    first_BxL = jnp.arange(depth)[None] == 0
    for k, kind in enumerate(kinds):
        table, inputs = weights["tables"][k], kind.inputs[2]
        kernels = table["kernel"].reshape(-1, *kind.kernel_shape)
        bias_RxF = of_rows(table["bias"].reshape(len(kernels), -1))
        for stored, here_BxL in ((inputs, ~first_BxL), (min(channels, inputs), first_BxL)):
            of_kernel_RxF = of_rows(kernels[:, :, :, :stored].reshape(len(kernels), -1))
            of_layer_RxF = jnp.concatenate([of_kernel_RxF, bias_RxF], axis=1)
            chosen_BxL = here_BxL & (kinds_BxL == k)
            rows = jnp.minimum(rows_BxL, len(kernels) - 1)  # others are of other tables
            found_BxLxF = jnp.where(chosen_BxL[..., None], of_layer_RxF[rows], found_BxLxF)
    depth_B = programs["depth"]
    used_BxLx1 = (jnp.arange(depth)[None] < depth_B[:, None])[..., None]
    last_B = depth_B - 1
    widths_K = jnp.asarray([kind.outputs[2] for kind in kinds])
    last_kind_B = jnp.take_along_axis(kinds_BxL, last_B[:, None], axis=1)[:, 0]
    head = programs["head"]
    classes = head["bias"].shape[1]
    of_head_BxF = of_rows(head["kernel"].reshape(batch, -1), widths_K[last_kind_B] * classes)
    number_Bx1 = depth_B[:, None].astype(jnp.float32)
    parts = [
        jnp.sum(jnp.where(used_BxLx1, found_BxLxF, 0), axis=1) / number_Bx1,
        jnp.min(jnp.where(used_BxLx1, found_BxLxF, jnp.inf), axis=1),
        jnp.max(jnp.where(used_BxLx1, found_BxLxF, -jnp.inf), axis=1),
        found_BxLxF[:, 0],
        jnp.take_along_axis(found_BxLxF, last_B[:, None, None], axis=1)[:, 0],
        of_head_BxF,
        of_rows(head["bias"]),
        number_Bx1,
    ]
    return jnp.concatenate(parts, axis=1)
