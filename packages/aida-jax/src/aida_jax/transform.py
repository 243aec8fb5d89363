"""The one transformation that every member is made of: sums, the rule's (alpha, beta), moments, the update.

The mathematics is in family.py, which the torch side shares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from . import family
from .documented import documented
from .layers import Leaf, StackedAxes, apart, as_given, as_real, concatenated, leaves_of, path_name, wide
from .reduction import check_axes, numel, over_shards, same_everywhere
from .scalars import step_scalars
from .settings import Member, Settings

LIMIT = float(np.finfo(np.float32).max)  # what coefficients are held within
LAST_COUNT = np.iinfo(np.int32).max
Arrays = Sequence[jax.Array]


class ScaleByAidaState(NamedTuple):
    """State of every member of the family.

    count: steps taken, int32 []. mu: the momenta m, shaped as the parameters. nu: v, without eps, shaped as
    the parameters, or for layerwise="pre" one number per layer, [] or [*stacked axes]. Both are of float32 at
    least, but mu where mu_dtype says otherwise.
    """

    count: jax.Array  # type: ignore[assignment]  # optax's name; a tuple has a method that is called so
    mu: optax.Updates
    nu: optax.Updates


def member_state(state: Any) -> ScaleByAidaState:
    """The one member's state within a state of any transformation, of one model and with numbers in it."""
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, ScaleByAidaState))
    found = [x for x in nodes if isinstance(x, ScaleByAidaState)]
    if not found and any(_is_plain(x) for x in jax.tree.leaves(state, is_leaf=_is_plain)):
        raise ValueError(
            "this state has count, mu and nu in a plain dict, as a checkpoint that is read without its types "
            "has them: restore it into optimizer.init(params), which orbax takes as the target"
        )
    if len(found) != 1:
        raise ValueError(
            f"this state has {len(found)} ScaleByAidaStates in it; give the part with the one to look at, as "
            "state.inner_states[label] of optax.partition"
        )
    count = found[0].count
    if isinstance(count, Tracer):
        raise TypeError(
            "this state is traced, and has no numbers yet: return it from the compiled function, and call "
            "this outside of jit"
        )
    if jnp.ndim(count):
        raise ValueError(
            f"this state is of {jnp.shape(count)} models, as jax.vmap(optimizer.init) makes it: give one of "
            "them, jax.tree.map(lambda x: x[0], state), and the parameters of the same"
        )
    return found[0]


def _is_plain(x: Any) -> bool:
    return isinstance(x, Mapping) and {*ScaleByAidaState._fields} <= {*x}


def check_nu(leaves: Sequence[Leaf], mu: Arrays, nu: Arrays, pooled: bool) -> None:
    """Raise ValueError for a state of another form, or of other layers."""
    for leaf, m, v in zip(leaves, mu, nu, strict=True):
        if (got := jnp.shape(v)) != (wanted := leaf.stack if pooled else jnp.shape(m)):
            raise ValueError(
                f"nu of leaf {leaf.name!r} has the shape {got}, and {wanted} belongs to this layerwise and "
                "these layers: give layerwise= and layers= as the state was made with them"
            )


def check_shapes(what: str, leaves: Sequence[Leaf], arrays: Sequence[Any], mu: Arrays) -> None:
    """Raise ValueError for a leaf of another shape than the state's, which might be broadcast."""
    for leaf, x, m in zip(leaves, arrays, mu, strict=True):
        if (got := jnp.shape(x)) != (own := jnp.shape(m)):
            raise ValueError(
                f"leaf {leaf.name!r} of {what} has the shape {got}, and {own} in the state: give them with "
                "the state of the same parameters, which optimizer.init(params) makes"
            )


@documented
def scale_by_layerwise(
    rule: tuple[float, float] | Callable[..., Any],
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    mu_dtype: Any = None,
    *,
    eps_out: jax.typing.ArrayLike = 0.0,
    layerwise: str | None = None,
    rectify: bool = False,
    layers: StackedAxes | None = None,
    axis_name: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Scale by the adaptive stepsizes of any rule: what every member is made of, and yours may be.

        m <- b1*m + (1-b1)*g
        r  = beta*m - alpha*g,   (alpha, beta) = rule(gg, gm, mm, ...)
        v <- b2*v + (1-b2)*r^2                                    "pre": the layer's mean of r^2, one number
        u  = 1/(sqrt(v/(1-b2^t) + eps/(1-b2)) + eps_out)          "post": the mean over the layer's v > 0
        update = u*m/(1-b1^t)

    Arguments:
        rule: a pair (alpha, beta), or a function that gives it, of those of the layer's inner products
            gg = <g,g>, gm = <g,m>, mm = <m,m>, dd = <m-g, m-g> (m the updated momentum) that it names. Each
            is an array [L], with an entry for each of the L layers of the tree (in jax.shard_map, of those
            that differ along the same axes); so are alpha and beta, or they are numbers; an entry that is
            not finite is taken as 1. Values of its other arguments are bound: functools.partial(rule,
            power=0.5). A rule of + - * / and powers serves aida.Layerwise too.
        eps_out: added outside the root, as AdaBelief adds eps. Default: 0.

    Returns a GradientTransformation with a ScaleByAidaState; it has no learning rate and no sign.

    Example:
        >>> import functools, jax.numpy as jnp, optax
        >>> from aida_jax import scale_by_layerwise
        >>> def damped(gg, mm, *, power=1.0):
        ...     return 1.0, (mm / (mm + gg + 1e-30)) ** power
        >>> optimizer = optax.chain(
        ...     scale_by_layerwise(functools.partial(damped, power=0.5)), optax.scale_by_learning_rate(1e-2)
        ... )
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> updates, state = optimizer.update(params, optimizer.init(params))
        >>> updates["bias"].shape
        (2,)
    """
    s = Settings(
        rule=rule, b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype, eps_out=eps_out, layerwise=layerwise,
        rectify=rectify, layers=layers, axis_name=axis_name,
    )  # fmt: skip

    def init(params: optax.Params) -> ScaleByAidaState:
        return _init(s, params)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        del params, extra_args
        with jax.numpy_dtype_promotion("standard"):  # the user's own code may run in a strict jax
            return _update(s, updates, state)

    return Member.made(init, update, s)


def _init(s: Settings, params: Any) -> ScaleByAidaState:
    leaves, arrays, treedef = leaves_of(params, s.layers, s.axis_name)
    mu = [jnp.zeros_like(x, dtype=stored(x, s.mu_dtype)) for x in arrays]
    if s.layerwise == "pre":
        dtypes = [jnp.finfo(stored(x)).dtype for x in arrays]
        nu = [jnp.zeros(leaf.stack, dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
    else:
        nu = [jnp.zeros_like(x, dtype=stored(x)) for x in arrays]
    return ScaleByAidaState(jnp.zeros([], jnp.int32), treedef.unflatten(mu), treedef.unflatten(nu))


def stored(x: Any, dtype: Any = None) -> Any:
    """The type of a moment: float32 at least, or, of a real leaf, what was asked for."""
    if dtype is not None and not jnp.iscomplexobj(x):
        return jax.dtypes.canonicalize_dtype(dtype)
    return wide(jnp.result_type(x))


def _update(s: Settings, updates: Any, state: ScaleByAidaState) -> tuple[Any, ScaleByAidaState]:
    leaves, given, treedef = leaves_of(updates, s.layers, s.axis_name)
    check_axes(leaves, given)
    mu, nu = _moments(state, leaves, treedef)
    check_shapes("the gradients", leaves, given, mu)
    check_nu(leaves, mu, nu, s.layerwise == "pre")
    count = jnp.where(state.count < LAST_COUNT, state.count + 1, LAST_COUNT)
    t = step_scalars(count, b1=s.b1, b2=s.b2, eps=s.eps, eps_out=s.eps_out, rectify=s.rectify)

    gs = [as_real(g) for g in given]
    ms = [_mixed(s.b1, as_real(m), g) for m, g in zip(mu, gs, strict=True)]
    vs: list[jax.Array] = []
    for leaf, g, m, v, of_layers in zip(leaves, gs, ms, nu, coefficients(s, leaves, gs, ms), strict=True):
        alpha, beta, squares = of_layers
        if s.layerwise == "pre":
            vs.append(_mixed(s.b2, leaf.spread(v), leaf.of(squares, g.dtype) / numel(leaf)))
        else:
            r = leaf.of(beta, g.dtype) * m - leaf.of(alpha, g.dtype) * g
            vs.append(_mixed(s.b2, as_real(v), r * r))
    us = stepsizes(s, leaves, vs, t)
    directions = [jnp.asarray(t[3], m.dtype) * u * m for u, m in zip(us, ms, strict=True)]

    def tree(arrays: Arrays, like: Sequence[Any]) -> Any:
        return treedef.unflatten([as_given(x, y) for x, y in zip(arrays, like, strict=True)])

    return tree(directions, given), ScaleByAidaState(count, tree(ms, mu), tree(vs, nu))


def _moments(state: ScaleByAidaState, leaves: Sequence[Leaf], treedef: Any) -> tuple[list[Any], list[Any]]:
    """(mu, nu) of the gradients' leaves. Raises ValueError where the state has others, TypeError for none."""
    if not hasattr(state, "mu"):
        raise TypeError(
            f"the state is a {type(state).__name__} and no ScaleByAidaState: give what this optimizer's init "
            "or update gave, and restore a checkpoint into optimizer.init(params), so that it has its types"
        )
    given = dict.fromkeys(leaf.name for leaf in leaves)
    own = dict.fromkeys(path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(state.mu)[0])
    if lost := [name for name in own if name not in given]:
        raise ValueError(
            f"the state has the leaf {lost[0]!r}, and the gradients have none there, or None: leave it out "
            "of both, by optax.masked or by optax.partition"
        )
    if new := [name for name in given if name not in own]:
        raise ValueError(
            f"the gradients have the leaf {new[0]!r}, and the state has not: make it of these parameters, "
            "optimizer.init(params)"
        )
    try:
        return treedef.flatten_up_to(state.mu), treedef.flatten_up_to(state.nu)
    except ValueError as error:
        raise ValueError(
            "the state's tree is made of other containers than the gradients': give optimizer.init and "
            f"update trees of the same kind ({error})"
        ) from error


def coefficients(s: Settings, leaves: Sequence[Leaf], gs: Arrays, ms: Arrays) -> list[tuple[Any, Any, Any]]:
    """For each leaf (alpha, beta) of its layers, numbers or arrays; and, for "pre", their sums of r^2."""
    is_function, pooled = callable(s.rule), s.layerwise == "pre"
    needed = family.sums_needed(None if is_function else s.rule, s.sums, pooled)
    if not leaves or not needed:
        return [(1.0, 1.0, None) if is_function else (*s.rule, None)] * len(leaves)
    pieces = [layer_sums(needed, leaf, g, m) for leaf, g, m in zip(leaves, gs, ms, strict=True)]
    columns = over_shards(pieces, leaves)
    found: dict[int, tuple[Any, Any, Any]] = {}
    for places in same_everywhere(columns):
        sums = dict(zip(needed, concatenated([columns[i] for i in places]), strict=True))
        parts = (apart(x, [leaves[i] for i in places]) for x in _of_sums(s, sums))
        found |= zip(places, zip(*parts, strict=True), strict=True)
    return [found[i] for i in range(len(leaves))]


def _of_sums(s: Settings, sums: Mapping[str, jax.Array]) -> tuple[Any, Any, Any]:
    alpha, beta = s.rule if not (is_function := callable(s.rule)) else _pair(s.rule, s.sums, sums)
    if s.layerwise != "pre":
        return alpha, beta, None
    total = family.residual_square(alpha, beta, *(sums.get(name, 0.0) for name in ("gg", "gm", "dd")))
    return alpha, beta, jnp.where(jnp.isfinite(total), total, sums["dd"]) if is_function else total


def _pair(rule: Any, names: Sequence[str], sums: Mapping[str, jax.Array]) -> tuple[Any, Any]:
    taken = {name: sums[name] for name in names}
    return usable_pair(rule(**taken), taken[names[0]].shape)


def layer_sums(names: Sequence[str], leaf: Leaf, g: jax.Array, m: jax.Array) -> jax.Array:
    """Inner products of g and m for each layer of a leaf, [len(names), layers]."""
    pairs = [_factors(name, g, m) for name in names]
    return jnp.stack([leaf.sum(a * b) for a, b in pairs])


def _factors(name: str, g: jax.Array, m: jax.Array) -> tuple[jax.Array, jax.Array]:
    return {"gg": (g, g), "gm": (g, m), "mm": (m, m)}[name] if name != "dd" else (m - g, m - g)


def usable_pair(pair: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """(alpha, beta) as a step can use them; shape: that of the sums. Raises TypeError for what is no pair."""
    is_pair = isinstance(pair, tuple | list) and len(pair) == 2
    if not is_pair or any(np.shape(c) not in ((), shape) for c in pair):
        raise TypeError(f"the rule gave {pair!r}; it must give (alpha, beta), numbers or arrays as its sums")
    arrays = jax.Array | np.ndarray
    alpha, beta = (
        jnp.where(jnp.isfinite(c), jnp.clip(c, -LIMIT, LIMIT), 1.0) if isinstance(c, arrays) else float(c)
        for c in pair
    )
    return alpha, beta


def stepsizes(s: Settings, leaves: Sequence[Leaf], vs: Arrays, t: Any) -> list[jax.Array]:
    """u of every leaf: of each element, or, for "post", the mean over the elements of a layer with v > 0."""
    us = [stepsize(v, t) for v in vs]
    if s.layerwise != "post":
        return us
    pieces = [
        jnp.stack([leaf.sum(jnp.where(v != 0, u, 0)), leaf.sum((v != 0).astype(v.dtype))])
        for leaf, v, u in zip(leaves, vs, us, strict=True)
    ]
    means: list[jax.Array] = []
    for leaf, v, (total, count) in zip(leaves, vs, over_shards(pieces, leaves), strict=True):
        mean = jnp.where(count == 0, stepsize(jnp.zeros_like(total), t), total / jnp.maximum(count, 1))
        means.append(leaf.of(mean, v.dtype))
    return means


def stepsize(v: jax.Array, t: Any) -> jax.Array:
    """u of every v; t: the scalars of a step."""
    inv_bias2, eps_in_root, eps_out, _ = (jnp.asarray(x, v.dtype) for x in t)
    corrected = jnp.where(inv_bias2 == 0, 0, v * inv_bias2)  # 0 while a rectified step is intractable
    return 1 / (jnp.sqrt(corrected + eps_in_root) + eps_out)


def _mixed(b: Any, old: jax.Array, new: jax.Array) -> jax.Array:
    """b*old + (1-b)*new, in the type of the new."""
    b = jnp.asarray(b, new.dtype) if isinstance(b, jax.Array) else b
    return b * old.astype(new.dtype) + (1 - b) * new
