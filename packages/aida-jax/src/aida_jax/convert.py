"""States from the torch side to this one and back, for the same model on both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .layers import Leaf, StackedAxes, leaves_of
from .transform import ScaleByAidaState, check_nu, member_state, stored

STATE = ("step", "exp_avg", "exp_avg_var")
BESIDE = ("hyperparams", "hyperparams_states", "inner_state", "rng_key")
"""What optax's states have beside a count that is read by a schedule: inject_hyperparams, add_noise."""
CONVERTED = "give what aida.convert_state(state_dict, optimizer) of the torch side makes of it"


def state_from_torch(
    state_dict: Any,
    to_tree: Callable[[dict[str, np.ndarray]], Any],
    names: Sequence[str] | None = None,
    *,
    layers: StackedAxes | None = None,
    mu_dtype: Any = None,
    into: Any = None,
) -> Any:
    """The state of a member of aida.optimizers as that of the same member here.

    Arguments:
        state_dict: what optimizer.state_dict() of the torch side gives; or the optimizer itself, which alone
            knows where the layers lie if its `layers` makes others than parameters.
        to_tree: the function by which the model's parameters come here, of NumPy arrays by their torch names
            to the tree of parameters: transposed, stacked, renamed. It is called with the moments.
        names: the parameters' names in the optimizer's order, such as
            [name for name, _ in model.named_parameters()]. Default: None, the names in the state, which it
            has where the optimizer was given named parameters.
        layers: as the member here is given it; for layerwise="pre". Default: None, a leaf is one layer.
        mu_dtype: as the member here is given it. Default: None, the type that m has there, float32 at least.
        into: the state of the whole optimizer, optimizer.init(params), wherever in it the member's is.
            Default: None, for the member's state alone.

    Returns `into` with the member's state replaced and with the count of each schedule in it set, so that
    these go on where the torch side has stopped; without `into` a ScaleByAidaState. What else is in it, such
    as another optimizer's moments, stays as it is. Hyperparameters do not come with it.
    Raises ValueError where layers have been stepped a different number of times, which one count cannot say,
    with their names; where there are no names or a layer there is none here, and for a state that is none of
    this family's.

    Example:
        >>> import aida, aida_jax, optax, torch
        >>> model = torch.nn.Linear(3, 2)
        >>> of_torch = aida.Aida(model.named_parameters(), lr=1e-3)
        >>> model(torch.ones(4, 3)).sum().backward()
        >>> of_torch.step()
        >>> def to_tree(named):
        ...     return {"kernel": named["weight"].T, "bias": named["bias"]}
        >>> params = to_tree({name: p.detach().numpy() for name, p in model.named_parameters()})
        >>> optimizer = aida_jax.aida(optax.linear_schedule(1e-3, 0.0, 100))
        >>> state = aida_jax.state_from_torch(of_torch.state_dict(), to_tree, into=optimizer.init(params))
        >>> state[0].mu["kernel"].shape, int(state[0].count), int(state[-1].count)
        ((3, 2), 1, 1)
    """
    of_torch, layering = state_dict, getattr(state_dict, "layering", None)
    if layering is not None:
        state_dict = of_torch.state_dict()
    by_name = _named_states(state_dict, names)
    counts = {name: int(float(of_p["step"])) if of_p else 0 for name, of_p in by_name.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(_different(counts))
    if not any(by_name.values()):
        raise ValueError(
            "this state is empty: nothing was stepped yet, and optimizer.init(params) is its like"
        )
    if coded := [name for name, of_p in by_name.items() if "exp_avg_scale" in of_p]:
        raise ValueError(
            f"the moments of {coded[0]!r} are codes of 8 bits, which stay in torch: load the state into an "
            "optimizer of torch with state_dtype='float32' in its groups, and give what that one saves"
        )
    m = {name: _array(of_p["exp_avg"]) for name, of_p in by_name.items()}
    v = {name: _array(of_p["exp_avg_var"]) for name, of_p in by_name.items()}
    mu = jax.tree.map(lambda x: jnp.array(x, stored(x, mu_dtype)), to_tree(m))
    if all(v[name].shape == m[name].shape for name in m):
        nu = jax.tree.map(jnp.array, to_tree(v))
    else:  # v of each layer in all of its places, so that it goes where the layer goes
        if layering is None and any("layers" in group for group in state_dict["param_groups"]):
            raise ValueError(
                "this state has a v for each layer that the argument `layers` made, and does not say where "
                "they lie: give the torch optimizer itself in place of its state_dict()"
            )
        places = _places(of_torch, [*m]) if layering is not None else {name: [...] for name in m}
        spread = to_tree({name: _spread(m[name], v[name], places[name]) for name in m})
        leaves, arrays, treedef = leaves_of(spread, layers)
        nu = treedef.unflatten([_one_each(leaf, x) for leaf, x in zip(leaves, arrays, strict=True)])
    own = ScaleByAidaState(jnp.asarray(next(iter(counts.values())), jnp.int32), mu, nu)
    return own if into is None else _put_into(into, own)


def _put_into(state: Any, own: ScaleByAidaState) -> Any:
    """A whole optimizer's state with this member's in it, and the counters of its schedules."""
    member_state(state)  # there is one

    def put(node: Any) -> Any:
        if isinstance(node, ScaleByAidaState):
            return own
        if jax.tree_util.all_leaves([node]):
            return node
        children, treedef = jax.tree.flatten(node, is_leaf=lambda x: x is not node)
        node = treedef.unflatten(map(put, children))
        return node._replace(count=jnp.full_like(node.count, own.count)) if _is_schedule(node) else node

    return put(state)


def _is_schedule(node: Any) -> bool:
    """Whether a state's count is read by a schedule; beside moments and means it counts what is in these."""
    fields = {*getattr(node, "_fields", ())}
    return "count" in fields and fields <= {"count", *BESIDE}


def state_to_torch(
    state: Any,
    optimizer: Any,
    from_tree: Callable[[Any], Mapping[str, Any]],
    names: Sequence[str] | None = None,
    *,
    layers: StackedAxes | None = None,
) -> dict[str, Any]:
    """The opposite: a state dict for the same member of the torch side, to load with load_state_dict.

    Arguments:
        state: an optimizer's state with one member's ScaleByAidaState in it, wherever that is.
        optimizer: the member of the torch side, for its parameters and groups, which stay as they are.
        from_tree: the function by which parameters go to torch: of the tree, to arrays by their torch names.
        names: as in state_from_torch. Default: None, the names in the optimizer's groups.
        layers: as the member here was given it; for layerwise="pre". Default: None, a leaf is one layer.

    Returns a dict as optimizer.state_dict() gives it. Every layer's counter is the count. Raises ValueError
    where names, shapes or layers differ, TypeError for an optimizer that is no member. Needs torch.

    Example:
        >>> import aida, aida_jax, jax.numpy as jnp, torch
        >>> def from_tree(tree):
        ...     return {"weight": tree["kernel"].T, "bias": tree["bias"]}
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> optimizer = aida_jax.aida(1e-3)
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> of_torch = aida.Aida(torch.nn.Linear(3, 2).named_parameters(), lr=1e-3)
        >>> of_torch.load_state_dict(aida_jax.state_to_torch(state, of_torch, from_tree))
        >>> [float(of_p["step"]) for of_p in of_torch.state.values()]
        [1.0, 1.0]
    """
    import torch  # here alone: the package does not need it

    if not hasattr(optimizer, "layering"):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}; it must be the same member of the torch side, such "
            "as aida.Aida(model.named_parameters())"
        )
    given, own = optimizer.state_dict(), member_state(state)
    of_name = dict(zip(_names(given, names), _parameters(optimizer), strict=True))
    leaves, mu, treedef = leaves_of(own.mu, layers)
    nu = treedef.flatten_up_to(own.nu)
    pooled = any(jnp.shape(x) != jnp.shape(y) for x, y in zip(mu, nu, strict=True))
    check_nu(leaves, mu, nu, pooled)
    if pooled:
        nu = [
            np.broadcast_to(np.reshape(x, (*leaf.stack, *[1] * (jnp.ndim(y) - leaf.stacked))), jnp.shape(y))
            for leaf, x, y in zip(leaves, nu, mu, strict=True)
        ]
    places = _places(optimizer, [*of_name]) if pooled else {}
    m, v = from_tree(own.mu), from_tree(treedef.unflatten(nu))
    states: dict[int, dict[str, Any]] = {}
    for key, (name, p) in enumerate(of_name.items()):
        if name not in m or np.shape(m[name]) != tuple(p.shape):
            got = f"the shape {np.shape(m[name])}" if name in m else "no such name"
            raise ValueError(
                f"parameter {name!r} has the shape {tuple(p.shape)}, and from_tree gives {got}: it must give "
                "every parameter of the optimizer by its torch name, as torch has it"
            )
        of_v = np.asarray(v[name])
        if pooled:
            parts = [_only(f"parameter {name!r}", of_v[place]) for place in places[name]]
            of_v = np.asarray(parts if len(parts) > 1 else parts[0], of_v.dtype)
        arrays = (np.float32(own.count), m[name], of_v)
        tensors = (torch.asarray(_numpy(x)).clone(memory_format=torch.contiguous_format) for x in arrays)
        states[key] = dict(zip(STATE, tensors, strict=True))
    return {**given, "state": states}


def _parameters(optimizer: Any) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _places(optimizer: Any, names: Sequence[str]) -> dict[str, list[Any]]:
    """Where the layers of each parameter of a torch optimizer lie in it."""
    places: dict[str, list[Any]] = {}
    layering = optimizer.layering  # once: it looks at all groups
    for name, p in zip(names, _parameters(optimizer), strict=True):
        if (key := layering.key(p)) is not None:
            raise ValueError(
                f"parameter {name!r} is a part of the layer {key!r}, which has several tensors, and here "
                "each tensor is a layer: begin with empty moments, optimizer.init(params)"
            )
        slices = layering.slices(p)
        places[name] = [tuple(slice(*ends) for ends in layer.box) for layer in slices] or [...]
    return places


def _spread(m: np.ndarray, v: np.ndarray, places: Sequence[Any]) -> np.ndarray:
    """v of each layer in all of its places."""
    spread = np.empty(m.shape, v.dtype)
    for place, x in zip(places, v.reshape(-1), strict=True):
        spread[place] = x
    return spread


def _one_each(leaf: Leaf, x: Any) -> jax.Array:
    """One entry for each layer of a leaf."""
    x = np.asarray(x)
    numbers = [_only(f"leaf {leaf.name!r}", part) for part in x.reshape(leaf.count, leaf.numel)]
    return jnp.array(np.asarray(numbers, x.dtype).reshape(leaf.stack))


def _only(what: str, x: np.ndarray) -> Any:
    """The one number that a layer holds in all of its places; 0 where it has none."""
    if not x.size:
        return 0.0
    if not np.array_equal(x, np.full_like(x, x.flat[0]), equal_nan=True):
        raise ValueError(
            f"{what} has several layers of the other side, each with a v of its own, and is given as one: "
            "give layers= as the member here has it, and the torch optimizer the `layers` that it has there"
        )
    return x.flat[0]


def _named_states(state_dict: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """Each parameter's state by its name, {} where it has none."""
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= {*state_dict}:
        raise ValueError(
            "state_dict is not what a torch optimizer's state_dict() gives, with its groups and states"
        )
    order = _names(state_dict, names)
    keys = [key for group in state_dict["param_groups"] for key in group["params"]]
    by_name = {name: state_dict["state"].get(key, {}) for name, key in zip(order, keys, strict=True)}
    for name, of_p in by_name.items():
        if of_p and not {*STATE} <= {*of_p}:
            raise ValueError(
                f"the state of {name!r} has {', '.join(of_p)} and not {', '.join(STATE)}: it is of another "
                f"optimizer than this family's; {CONVERTED}"
            )
    # Other AdaBeliefs have the same names, and eps in their v.
    if not all({"saved_by", "decoupled_weight_decay"} & {*group} for group in state_dict["param_groups"]):
        raise ValueError(
            "this state's groups have no 'decoupled_weight_decay': it is of another optimizer than this "
            f"family's, and its v may have eps in it; {CONVERTED}"
        )
    return by_name


def _names(state_dict: Mapping[str, Any], names: Sequence[str] | None) -> list[str]:
    groups = state_dict["param_groups"]
    count = sum(len(group["params"]) for group in groups)
    if names is None and all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
    if names is None or len(names) != count:
        raise ValueError(
            f"the optimizer has {count} parameters and {'no' if names is None else len(names)} names: give "
            "names=[name for name, _ in model.named_parameters()], in the optimizer's order"
        )
    return list(names)


def _different(counts: Mapping[str, int]) -> str:
    of_count: dict[int, list[str]] = {}
    for name, count in counts.items():
        of_count.setdefault(count, []).append(name)
    told = "; ".join(
        f"{count} steps: {', '.join(names[:3])}{', …' * (len(names) > 3)}"
        for count, names in of_count.items()
    )
    return (
        f"layers have taken different numbers of steps, and here one count stands for all ({told}): give "
        "each set a member of its own, by optax.partition, and convert their states one by one"
    )


def _array(x: Any) -> np.ndarray:
    """A tensor as NumPy's, of float32 at least, as moments are here."""
    x = x.detach().cpu()
    return (x.float() if "float16" in str(x.dtype) else x).numpy()


def _numpy(x: Any) -> np.ndarray:
    """An array of one's own, of a type that torch knows."""
    x = np.array(x)
    return x.astype(np.float32) if x.dtype.name == "bfloat16" else x
