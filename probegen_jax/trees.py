"""Nested dicts and other trees as flat dicts, by names such as "layers.0.kernel", and back."""

from collections.abc import Mapping
from typing import Any

import jax


def named(tree: Any, whole: tuple[type, ...] = ()) -> dict[str, Any]:
    """The leaves of a tree by name: the keys and numbers that lead to each, joined by dots.

    Args:
      whole: types that are leaves, whatever they hold.
    """
    leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda inner: isinstance(inner, whole))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def nested(leaves: Mapping[str, Any]) -> dict[Any, Any]:
    """Nested dicts from leaves by name; keys of digits become numbers."""
    tree: dict[Any, Any] = {}
    for name, leaf in leaves.items():
        *path, last = [int(key) if key.isdigit() else key for key in name.split(".")]
        inner = tree
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = leaf
    return tree
