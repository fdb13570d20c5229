"""What a zoo is, and where it is read from.

`probegen_jax.zoo.inr_files`, with its `InrKeys`, is the name that earlier versions had for
`probegen_jax.zoo.files.inr_files`, with `ReadOptions`.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "inr_files":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from probegen_jax.zoo.files import inr_files  # only for those who ask for it

    return inr_files
