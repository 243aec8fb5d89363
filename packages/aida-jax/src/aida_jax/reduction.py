"""Sums over the pieces of layers that shard_map splits: one message for all leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .layers import Leaf


def over_shards(sums: jax.Array, leaves: Sequence[Leaf]) -> jax.Array:
    """Sums [k, L] of pieces as those of whole layers.

    Where leaves are split along different axes, a leaf counts once along an axis that does not split it.
    """
    names = sorted({name for leaf in leaves for name in leaf.axes or ()})
    if not names:
        return sums
    for name in names:
        splits = [np.full(leaf.count, name in (leaf.axes or ())) for leaf in leaves]
        if not np.all(flags := np.concatenate(splits)):
            sums = jnp.where(flags | (jax.lax.axis_index(name) == 0), sums, 0)
    return jax.lax.psum(sums, tuple(names))


def numel(leaf: Leaf) -> int:
    """Elements of each whole layer of the leaf, 1 at least."""
    pieces = [int(jax.lax.psum(1, name)) for name in leaf.axes or ()]
    return max(1, leaf.numel * int(np.prod(pieces, dtype=np.int64)))


def check_axes(leaves: Sequence[Leaf], arrays: Sequence[Any]) -> None:
    """Raise ValueError where shard_map splits a leaf and axis_name does not say so."""
    for leaf, x in zip(leaves, arrays, strict=True):
        if leaf.axes is None and (varying := _varying(x)):
            names = ", ".join(map(repr, varying))
            raise ValueError(
                f"leaf {leaf.name!r} differs along {names} of the mesh, and axis_name is None: give the "
                f"axes that split its layers, axis_name={varying[0]!r}, or axis_name=() if every piece is a "
                "layer of its own"
            )


def _varying(x: Any) -> list[str]:
    """The axes along which shard_map knows an array to differ; none where this jax does not tell."""
    kind: Any = getattr(jax, "typeof", lambda x: None)(x)
    kind = getattr(kind, "manual_axis_type", kind)
    return sorted(getattr(kind, "varying", None) or getattr(kind, "vma", None) or ())
