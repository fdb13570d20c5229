"""Where a CNN starts from: initial weights by the names that Keras gives them, or PyTorch's own.

They are drawn on the host: drawn inside a jitted function, they are most of its compilation.
"""

import numpy as np
from jaxtyping import Float

from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.zoo import flat_weights

# Standard deviation of a normal distribution that is cut at two of its own.
_TRUNCATED = 0.87962566103423978

_OF_STD = ("RandomNormal", "TruncatedNormal")
INITIALIZERS = ("torch", "he_normal", "glorot_normal", "orthogonal", *_OF_STD)


def initial(
    spec: CnnSpec, name: str, std: float, rng: np.random.Generator
) -> Float[np.ndarray, " V"]:
    """The weights that a network starts from, as one vector for `flat_weights.unflatten`.

    Args:
      name: in `INITIALIZERS`. "torch" is U(±1/√fan_in) for kernels and biases; with all others
        biases start at 0.
      std: of those in `_OF_STD`; the others need none.
    """
    shapes = spec.abstract()
    parts = []
    for affine in (*shapes["layers"], shapes["head"]):
        shape = affine["kernel"].shape
        bias = np.zeros(shape[-1:])
        if name == "torch":
            bound = 1 / np.sqrt(np.prod(shape[:-1]))
            kernel = rng.uniform(-bound, bound, shape)
            bias = rng.uniform(-bound, bound, shape[-1:])
        else:
            kernel = _kernel(name, shape, std, rng)
        parts.append({"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)})
    return flat_weights.flatten({"layers": tuple(parts[:-1]), "head": parts[-1]})


def _kernel(
    name: str, shape: tuple[int, ...], std: float, rng: np.random.Generator
) -> Float[np.ndarray, "..."]:
    area = int(np.prod(shape[:-2]))
    fan_in, fan_out = area * shape[-2], area * shape[-1]
    if name == "orthogonal":
        rows, columns = fan_in, shape[-1]
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        q = q * np.sign(np.diag(r))  # evenly distributed over all orthogonal matrices
        return (q if rows >= columns else q.T).reshape(shape)
    if name == "RandomNormal":
        return std * rng.standard_normal(shape)
    spread = {
        "he_normal": np.sqrt(2 / fan_in) / _TRUNCATED,
        "glorot_normal": np.sqrt(2 / (fan_in + fan_out)) / _TRUNCATED,
        "TruncatedNormal": std,
    }[name]
    return spread * _truncated(shape, rng)


def _truncated(shape: tuple[int, ...], rng: np.random.Generator) -> Float[np.ndarray, "..."]:
    """Standard normal numbers; those beyond ±2 are drawn again."""
    values = rng.standard_normal(shape)
    while (beyond := np.abs(values) > 2).any():
        values[beyond] = rng.standard_normal(int(beyond.sum()))
    return values
