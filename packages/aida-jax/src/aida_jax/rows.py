"""layer_stepsizes: a member's stepsizes as rows, the same as aida.monitor's of the torch side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import jax
import numpy as np

from . import family
from .layer_sums import COLUMNS, histogram_top, measured
from .layers import Leaf, leaves_of, path_name
from .monitor import measures
from .monitor.schema import Row
from .settings import Member, Settings
from .transform import check_nu, check_shapes, member_state


def layer_stepsizes(
    state: Any,
    params: Any,
    grads: Any = None,
    *,
    optimizer: Any,
    select: Callable[[str], bool] | None = None,
) -> list[Row]:
    """A row of measures for each layer, as the last update left it.

    u = 1/(sqrt(v/(1-b2^t) + eps/(1-b2)) + eps_out): neither the learning rate nor the first bias correction
    is in it, as in the figure of arXiv 2203.13273. Rows are as those of aida.monitor: its sinks, its plots
    and the command `aida stepsizes` take them; aida_jax.monitor has sinks and plots without torch, but
    TensorBoard, which writes through torch.

    Arguments:
        state: the optimizer's state after the update, with one member's ScaleByAidaState in it, wherever a
            chain, a mask or inject_hyperparams has put that.
        params: the parameters after the update has been applied; what else is in their tree is left out.
        grads: the gradients that the member's update was given; they give the cosine and the norm of g, and
            the residual. Default: None, which leaves those None.
        optimizer: the member that the state is of, as aida_jax.aida(1e-3) gives it. Where hyperparameters are
            injected: aida_jax.aida(K=2, **state.hyperparams). A member without a learning rate, such as
            scale_by_aida(), gives no update_ratio.
        select: a function of a leaf's path that says whether it is measured. Default: None, all.

    Returns rows as aida.monitor's schema lists them, none before the first step; a layer of a leaf that
    stacks several is called "blocks/kernel[3]". It takes one compiled pass over the layers, whose arrays may
    be sharded (outside of shard_map). Raises TypeError for an optimizer that is no member and inside of jit,
    ValueError for a state with no member's state in it or several, of another member's form, of several
    models, or of other shapes, KeyError where params lack a leaf.

    Example:
        >>> import aida_jax, jax, jax.numpy as jnp, optax
        >>> optimizer = aida_jax.aida(1e-3)
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> grads = jax.tree.map(lambda p: p + 1, params)
        >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
        >>> params = optax.apply_updates(params, updates)
        >>> rows = aida_jax.layer_stepsizes(state, params, grads, optimizer=optimizer)
        >>> [(row["parameter"], row["numel"], round(row["cos"], 3)) for row in rows]
        [('bias', 2, 1.0), ('kernel', 6, 1.0)]
    """
    if not isinstance(optimizer, Member):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}; it must be the member that the state is of, as "
            "aida_jax.aida(1e-3) gives it"
        )
    if not hasattr(optimizer, "settings"):
        raise TypeError(
            "this member has lost its settings, as jax.tree.map or what returns it from a compiled function "
            "makes it anew: give the one that aida_jax.aida(1e-3) gave"
        )
    s, own = optimizer.settings, member_state(state)
    count = int(own.count)
    leaves, mu, treedef = leaves_of(own.mu, s.layers)
    check_nu(leaves, mu, treedef.flatten_up_to(own.nu), s.layerwise == "pre")
    if not count or not leaves:
        return []
    b1, b2, eps, eps_out = (float(x) for x in (s.b1, s.b2, s.eps, s.eps_out))
    scalars = family.step_scalars(count, lr=1.0, b1=b1, b2=b2, eps=eps, eps_out=eps_out, rectify=s.rectify)
    cap = 1 / (1 / family.stepsize_cap(eps, b2) + eps_out)
    top, names = histogram_top(cap), [leaf.name for leaf in leaves]
    of_params, given = _by_path(params, names), _by_path(grads, names)
    if missing := [name for name in names if name not in of_params]:
        raise KeyError(f"params lack {', '.join(missing[:3])}: give all that the optimizer was given")
    for what, tree in (("params", of_params), ("grads", given)):
        check_shapes(what, leaves, [tree.get(leaf.name, m) for leaf, m in zip(leaves, mu, strict=True)], mu)
    stacked = tuple(leaf.stacked for leaf in leaves)
    with jax.numpy_dtype_promotion("standard"):
        table, counts = jax.device_get(measured(own, of_params, given, scalars, cap, top, stacked=stacked))
    columns: dict[str, np.ndarray] = dict(zip(COLUMNS, table.astype(np.float64), strict=True))
    pairs = _coefficients(s, columns)
    step_size = scalars[3] * _learning_rate(optimizer, count)
    is_capped = scalars[0] != 0  # 0 while a rectified step is intractable: u is 1 then
    rows: list[Row] = []
    named = [(leaf, name) for leaf in leaves for name in _layer_names(leaf)]
    for i, (leaf, name) in enumerate(named):
        if not leaf.numel or (select and not select(leaf.name)):
            continue
        sums = _sums({key: float(column[i]) for key, column in columns.items()}, leaf.numel, step_size)
        numel = leaf.numel // 2 if leaf.is_complex else leaf.numel
        about = {"kind": "stepsize", "step": count, "layer": len(rows) + 1, "parameter": name, "numel": numel}
        of_u = measures.stepsizes(sums, counts[i], top, cap if is_capped else None, s.layerwise == "post")
        sums = measures.products(sums, s.layerwise == "post", 0.0)
        rows.append(about | of_u | measures.directions(sums, leaf.name in given, True, pairs[i]))
    return rows


def _by_path(tree: Any, names: Sequence[str]) -> dict[str, Any]:
    """The leaves with these names: a model may have functions beside its parameters."""
    found = {path_name(path): x for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]}
    return {name: found[name] for name in names if name in found}


def _layer_names(leaf: Leaf) -> Iterator[str]:
    for index in product(*map(range, leaf.stack)):
        yield f"{leaf.name}[{', '.join(map(str, index))}]" if index else leaf.name


def _learning_rate(optimizer: Member, count: int) -> float:
    """What the last update had; nan where the member has none."""
    lr: Any = optimizer.learning_rate
    if callable(lr):
        lr = lr(count - 1)
    return float("nan") if lr is None else float(lr)


def _coefficients(s: Settings, columns: dict[str, np.ndarray]) -> list[tuple[float, float]]:
    """(alpha, beta) of every layer, from float64 sums."""
    layers = len(columns["gg"])
    with np.errstate(all="ignore"):
        pair: Any = s.rule(**{name: columns[name] for name in s.sums}) if callable(s.rule) else s.rule
    alpha, beta = (np.broadcast_to(np.asarray(c, np.float64), layers) for c in pair)
    return [
        (a if np.isfinite(a) else 1.0, b if np.isfinite(b) else 1.0)
        for a, b in zip(alpha.tolist(), beta.tolist(), strict=True)
    ]


def _sums(s: dict[str, float], n: int, step_size: float) -> dict[str, Any]:
    """In the form that aida.monitor.measures reads."""
    mean = np.float64(s["mean"])
    return {**s, "n": n, "u": n * mean, "means": n * mean * mean, "-min": -s["min"], "step_size": step_size,
            "updates": step_size**2 * s["uu"]}  # fmt: skip
