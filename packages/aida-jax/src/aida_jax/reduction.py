"""Sums over the pieces of layers that shard_map splits, in one message for leaves that are split alike."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import numpy as np

from .layers import Leaf, apart, concatenated


def over_shards(sums: Sequence[jax.Array], leaves: Sequence[Leaf]) -> list[jax.Array]:
    """Sums [k, layers] of each leaf's pieces as those of whole layers; a message for each set of axes."""
    whole = [*sums]
    splits = [(leaf.axes or (), _varying(x)) for leaf, x in zip(leaves, sums, strict=True)]
    for places in _alike(splits):
        if axes := splits[places[0]][0]:
            joined = jax.lax.psum(concatenated([sums[i] for i in places]), axes)
            for i, x in zip(places, apart(joined, [leaves[i] for i in places]), strict=True):
                whole[i] = x
    return whole


def same_everywhere(sums: Sequence[jax.Array]) -> list[list[int]]:
    """The places of sums that differ along the same axes of the mesh; outside of shard_map all are together.

    Joined to sums that differ, those of a layer that every device has whole would be taken to differ too.
    """
    return _alike([_varying(x) for x in sums])


def _alike(keys: Sequence[Hashable]) -> list[list[int]]:
    places: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        places.setdefault(key, []).append(i)
    return [*places.values()]


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


def _varying(x: Any) -> tuple[str, ...]:
    """The axes along which shard_map knows an array to differ; none where this jax does not tell."""
    kind: Any = getattr(jax, "typeof", lambda x: None)(x)
    kind = getattr(kind, "manual_axis_type", kind)
    return tuple(sorted(getattr(kind, "varying", None) or getattr(kind, "vma", None) or ()))
