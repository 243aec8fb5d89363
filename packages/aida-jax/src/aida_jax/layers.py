"""What a layer is: a leaf of the tree, or each entry along the leading axes of a leaf that stacks layers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

StackedAxes: TypeAlias = Callable[[str], int]
"""Of a leaf's path, such as "blocks/kernel", how many of its leading axes count layers."""


@dataclass(frozen=True)
class Leaf:
    """One leaf as real numbers, [*stack, *one layer]; a complex one has its real and imaginary parts last."""

    name: str
    shape: tuple[int, ...]
    stacked: int  # leading axes that count layers
    axes: tuple[str, ...] | None  # of the mesh, which split its layers; None where nothing was said
    is_complex: bool

    @property
    def stack(self) -> tuple[int, ...]:
        return self.shape[: self.stacked]

    @property
    def count(self) -> int:
        """How many layers it holds."""
        return prod(self.stack)

    @property
    def numel(self) -> int:
        """Elements of one layer, or of the piece of it that is here."""
        return prod(self.shape[self.stacked :])

    def sum(self, x: jax.Array) -> jax.Array:
        """Of each layer, [count]."""
        return everywhere(jnp.sum(x, axis=tuple(range(self.stacked, len(self.shape))))).reshape(self.count)

    def spread(self, x: Any) -> jax.Array:
        """One number for each layer, of any shape, as an array that broadcasts against the leaf."""
        return jnp.reshape(x, (*self.stack, *[1] * (len(self.shape) - self.stacked)))

    def of(self, column: Any, dtype: Any) -> Any:
        """Its layers' column, to broadcast against it; a number for all layers as it is."""
        if not isinstance(column, jax.Array):
            return column
        column = column.astype(dtype)
        return self.spread(column) if column.ndim else column


def leaves_of(
    tree: Any, layers: StackedAxes | None, axis_name: Any = ()
) -> tuple[list[Leaf], list[Any], Any]:
    """(the leaves of a tree; their arrays; the tree's structure).

    Raises TypeError for a leaf that is not of floats, ValueError for what `layers` gives.
    """
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    found: list[Leaf] = []
    for path, x in with_paths:
        name, shape, dtype = path_name(path), jnp.shape(x), jnp.result_type(x)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"leaf {name!r} is of {dtype}, which has no gradient: leave it out, by optax.masked or by "
                "optax.partition"
            )
        axes = axis_name(name) if callable(axis_name) else axis_name
        stacked = _stacked(layers, name, shape)
        is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
        real = (*shape, 2) if is_complex else shape
        found.append(Leaf(name, real, stacked, mesh_axes(f"axis_name({name!r})", axes), is_complex))
    return found, [x for _, x in with_paths], treedef


def concatenated(columns: Sequence[jax.Array], axis: int = -1) -> jax.Array:
    """Columns [..., layers] of leaves as one of all layers, in the widest of their types."""
    if len(columns) == 1:
        return columns[0]
    if hasattr(jax, "typeof"):
        return jnp.concatenate(columns, axis=axis)
    # The compiler of jax 0.4 doubles what is joined where some of the mesh's axes split a column.
    fronts = [jnp.moveaxis(x, axis, 0) for x in columns]
    ends = np.cumsum([len(x) for x in fronts])
    around = [(end - len(x), ends[-1] - end) for x, end in zip(fronts, ends, strict=True)]
    padded = [jnp.pad(x, (one, *[(0, 0)] * (x.ndim - 1))) for x, one in zip(fronts, around, strict=True)]
    return jnp.moveaxis(sum(padded[1:], padded[0]), 0, axis)


def apart(column: Any, leaves: Sequence[Leaf]) -> list[Any]:
    """The opposite: the part of each leaf; what is one for all layers as it is."""
    if not isinstance(column, jax.Array) or column.ndim == 0:
        return [column] * len(leaves)
    return jnp.split(column, np.cumsum([leaf.count for leaf in leaves])[:-1], axis=-1)


def mesh_axes(what: str, given: Any) -> tuple[str, ...] | None:
    """Names of a mesh's axes: one, several, or None where nothing was said. Raises TypeError for all else."""
    axes = (given,) if isinstance(given, str) else given
    if axes is not None and not (
        isinstance(axes, tuple | list | set | frozenset) and all(isinstance(name, str) for name in axes)
    ):
        raise TypeError(
            f"{what} is {given!r}; it must be the name of an axis of the mesh, a tuple of them, (), or None"
        )
    return None if axes is None else tuple(axes)


def _stacked(layers: StackedAxes | None, name: str, shape: tuple[int, ...]) -> int:
    given = 0 if layers is None else layers(name)
    try:
        count = operator.index(given)
    except TypeError:
        count = -1
    if not 0 <= count <= len(shape):
        raise ValueError(
            f"layers({name!r}) is {given!r}; it must be how many leading axes of the shape {shape} count "
            f"layers, an integer from 0 (the whole leaf is one layer) to {len(shape)}"
        )
    return count


def path_name(path: tuple[Any, ...]) -> str:
    """Keys, names and numbers with / between them, as in "blocks/0/kernel"."""
    return "/".join(map(_key_name, path))


def _key_name(key: Any) -> str:
    if isinstance(key, DictKey | FlattenedIndexKey):
        return str(key.key)
    if isinstance(key, SequenceKey):
        return str(key.idx)
    return key.name if isinstance(key, GetAttrKey) else str(key)


def wide(dtype: Any) -> Any:
    """A type of floats, or float32 where it is smaller; no promotion, so that a strict jax does not mind."""
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)


def everywhere(x: jax.Array) -> jax.Array:
    """The same array, whole on every device where its type says how it is split; elsewhere as it is.

    The meshes of jax.make_mesh are such since jax 0.9 ("explicit" axes): an array whose axes are split can
    then neither be joined to another nor be given another shape, as the columns of all layers are.
    """
    kind: Any = getattr(jax, "typeof", lambda x: None)(x)
    mesh: Any = getattr(getattr(kind, "sharding", None), "mesh", None)
    reshard: Any = getattr(jax.sharding, "reshard", None)
    if reshard is None or not getattr(mesh, "explicit_axes", ()):  # the compiler or shard_map splits it
        return x
    return reshard(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def as_real(x: Any) -> jax.Array:
    """As real numbers, the two parts of a complex one last; float32 at least."""
    x = jnp.asarray(x)
    if jnp.iscomplexobj(x):
        x = jnp.stack([x.real, x.imag], axis=-1)
    return x.astype(wide(x.dtype))


def as_given(x: jax.Array, like: Any) -> jax.Array:
    """The opposite: of the shape and type of `like`."""
    dtype = jnp.result_type(like)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        x = jax.lax.complex(x[..., 0], x[..., 1])
    return x.astype(dtype).reshape(jnp.shape(like))
