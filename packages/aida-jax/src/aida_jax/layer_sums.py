"""All that a row needs of a layer's elements, in one compiled pass; arrays may be sharded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import ceil, log2
from typing import Any

import jax
import jax.numpy as jnp

from .layers import Leaf, as_real, concatenated, everywhere, leaves_of
from .monitor.schema import AT_CAP, PER_OCTAVE
from .settings import SUMS
from .transform import ScaleByAidaState, layer_sums, stepsize

BINS = 48 * PER_OCTAVE  # of 48 octaves below the cap
COLUMNS: tuple[str, ...] = ("mean", "within", "capped", "min", "max", "pp", "uu", "moved", "u_moved", *SUMS)
"""mean and sum of (u - mean)^2; elements at the cap; <p,p>, |u*m|^2; where v > 0, the number and sum of u."""


def histogram_top(cap: float) -> int:
    """log2 of the histogram's upper end; what lies outside its 48 octaves is counted in a bin at its end."""
    return ceil(log2(cap))


@partial(jax.jit, static_argnames="stacked")
def measured(
    state: ScaleByAidaState,
    params: Mapping[str, Any],
    grads: Mapping[str, Any],
    scalars: tuple[float, ...],
    cap: float,
    top: float,
    *,
    stacked: tuple[int, ...],
) -> tuple[jax.Array, jax.Array]:
    """([COLUMNS, L], histograms [L, BINS]) of a step that is done.

    params and grads: by the leaves' paths; grads may lack any. scalars: family.step_scalars of the step, from
    the host, where they are exact. stacked: how many leading axes of each leaf count layers; the function
    that says so may be a new one at every record, and would be compiled anew.
    """
    each = iter(stacked)
    leaves, mu, treedef = leaves_of(state.mu, lambda path: next(each))
    columns, histograms = [], []
    for leaf, m, v in zip(leaves, map(as_real, mu), treedef.flatten_up_to(state.nu), strict=True):
        p = as_real(params[leaf.name])
        g = as_real(grads[leaf.name]) if leaf.name in grads else jnp.zeros_like(m)
        is_pooled = jnp.shape(v) == leaf.stack and not jnp.iscomplexobj(v)
        v = leaf.spread(v) if is_pooled else as_real(v)
        v = jnp.broadcast_to(v, leaf.shape)
        u = stepsize(v, scalars)
        columns.append(_columns(leaf, p, g, m, v, u, cap))
        histograms.append(_histogram(leaf, u, top))
    return concatenated(columns), concatenated(histograms, axis=0)


def _columns(leaf: Leaf, p: Any, g: Any, m: Any, v: Any, u: Any, cap: Any) -> jax.Array:
    mean = leaf.sum(u) / max(leaf.numel, 1)
    off = u - leaf.spread(mean)
    moved = v != 0
    axes = tuple(range(leaf.stacked, len(leaf.shape)))
    extremes = (
        everywhere(reduce(u, axis=axes, initial=initial)).reshape(leaf.count)
        for reduce, initial in ((jnp.min, jnp.inf), (jnp.max, 0))
    )
    sums = (leaf.sum(x) for x in (p * p, (u * m) ** 2, moved.astype(u.dtype), jnp.where(moved, u, 0)))
    at_cap = leaf.sum((u >= AT_CAP * cap).astype(u.dtype))
    rows = [mean, leaf.sum(off * off), at_cap, *extremes, *sums]
    return jnp.concatenate([jnp.stack(rows), layer_sums(SUMS, leaf, g, m)])


def _histogram(leaf: Leaf, u: jax.Array, top: Any) -> jax.Array:
    """Counts of log2 u in equal bins, [layers, BINS]; what is not a number is in no bin."""
    place = jnp.clip((jnp.log2(u) - top) * PER_OCTAVE + BINS, 0, BINS - 1)
    layer = leaf.spread(jnp.arange(leaf.count)) * BINS
    # Out of bounds is dropped.
    index = jnp.where(jnp.isnan(u), leaf.count * BINS, layer + place.astype(jnp.int32))
    flat = jnp.zeros(leaf.count * BINS, jnp.int32).at[everywhere(index).reshape(-1)].add(1, mode="drop")
    return flat.reshape(leaf.count, BINS)
