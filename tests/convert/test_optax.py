"""States of optax, in the forms that a user has: live, as NumPy trees, and as plain dicts of a checkpoint."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import aida
from helpers.conversions import BEFORE, SHAPES
from helpers.members import parameters, set_gradients

EPS = 1e-6
TOLD = {"b1": 0.9, "b2": 0.999, "eps": EPS, "eps_root": EPS}
LR = 1e-2


class ScaleByBeliefState(NamedTuple):
    """As optax has it."""

    count: Any
    mu: Any
    nu: Any


class ScaleByAdamState(ScaleByBeliefState):
    pass


class ScaleByAmsgradState(NamedTuple):
    count: Any
    mu: Any
    nu: Any
    nu_max: Any


class ScaleByAidaState(ScaleByBeliefState):
    """As aida_jax has it."""


ScaleByAidaState.__module__ = "aida_jax.transform"


def gradients(params, t):
    set_gradients(params, t, 0.1)
    return [p.grad.numpy() for p in params]


def run(params, steps, state=None):
    """AdaBelief as optax documents it, in NumPy: the oracle where optax itself is not installed."""
    count, mu, nu = state or (0, [0.0] * len(params), [0.0] * len(params))
    xs = [p.detach().numpy().copy() for p in params]
    for t in steps:
        gs = gradients(params, t)
        count += 1
        mu = [0.9 * m + 0.1 * g for m, g in zip(mu, gs, strict=True)]
        nu = [0.999 * v + 0.001 * (g - m) ** 2 + EPS for v, g, m in zip(nu, gs, mu, strict=True)]
        for x, m, v in zip(xs, mu, nu, strict=True):
            x -= LR * m / (1 - 0.9**count) / (np.sqrt(v / (1 - 0.999**count)) + EPS)
    return xs, (count, mu, nu)


def names(n):
    return [f"layer.{chr(ord('z') - i)}" for i in range(n)]  # sorted, they are in the opposite order


def tree(values):
    return {"layer": {name.partition(".")[2]: x for name, x in zip(names(len(values)), values, strict=True)}}


def forms(count, mu, nu):
    state = ScaleByBeliefState(np.int32(count), tree(mu), tree(nu))
    plain = {"count": np.int32(count), "mu": tree(mu), "nu": tree(nu)}
    flat = {name.replace("layer.", "layer."): x for name, x in zip(names(len(mu)), mu, strict=True)}
    return {
        "a state": (state, {}),
        "in a chain": ((state, (), {"scale": 1.0}), {}),
        "with hyperparameters": ({"hyperparams": {"learning_rate": 0.1}, "inner_state": (state,)}, {}),
        "of a checkpoint": ({"0": plain, "1": {}}, {"source": "optax.adabelief"}),
        "flat names": (state._replace(mu=flat), {}),
        "lists": (ScaleByBeliefState(np.int32(count), mu, nu), {}),
    }


@pytest.mark.parametrize("form", forms(0, [], []))
def test_adabelief_goes_on(form):
    params = parameters(SHAPES, torch.float64)
    xs, state = run(params, range(BEFORE))
    params = [torch.nn.Parameter(torch.tensor(x)) for x in xs]
    named = params if form == "lists" else [*zip(names(len(params)), params, strict=True)]
    optimizer = aida.AdaBelief(named, lr=LR, weight_decay=0)
    given, arguments = forms(*state)[form]
    optimizer.load_state_dict(aida.convert_state(given, optimizer, **arguments, **TOLD))
    assert (optimizer.param_groups[0]["eps"], optimizer.param_groups[0]["lr"]) == (EPS, LR)
    wanted, _ = run(params, range(BEFORE, BEFORE + 20), state)
    for t in range(BEFORE, BEFORE + 20):
        set_gradients(params, t, 0.1)
        optimizer.step()
    for x, p in zip(wanted, params, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=0, atol=1e-14)


def test_as_optax_itself_goes_on():
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    try:
        params = parameters(SHAPES, torch.float64)
        transform = optax.adabelief(LR, eps=EPS, eps_root=EPS)
        theirs = tree([jax.numpy.asarray(p.detach().numpy()) for p in params])
        state = transform.init(theirs)

        def step(theirs, state, t):
            updates, state = transform.update(tree(gradients(params, t)), state, theirs)
            return optax.apply_updates(theirs, updates), state

        for t in range(BEFORE):
            theirs, state = step(theirs, state, t)
        ours = [torch.nn.Parameter(torch.tensor(np.asarray(x))) for x in theirs["layer"].values()]
        ours = dict(zip([f"layer.{key}" for key in theirs["layer"]], ours, strict=True))
        optimizer = aida.AdaBelief([(name, ours[name]) for name in names(len(ours))], lr=LR)
        optimizer.load_state_dict(aida.convert_state(state, optimizer, **TOLD))
        for t in range(BEFORE, BEFORE + 20):
            theirs, state = step(theirs, state, t)
            for name, p in zip(names(len(params)), params, strict=True):
                ours[name].grad = p.grad
            optimizer.step()
        for key, x in theirs["layer"].items():
            np.testing.assert_allclose(
                ours[f"layer.{key}"].detach().numpy(), np.asarray(x), rtol=0, atol=1e-14
            )
    finally:
        jax.config.update("jax_enable_x64", False)


def refusals():
    mu, nu = ([np.full(s, x) for s in SHAPES] for x in (0.1, 0.2))
    state = ScaleByBeliefState(3, mu, nu)
    yield state, {}, "optax.adabelief do not hold b1, b2, eps, eps_root: .* eps=1e-16, eps_root=1e-16"
    yield state, {**TOLD, "eps": 1e-8}, "eps=1e-08 and eps_root=1e-06 cannot be converted: .* has one eps"
    yield state, {**TOLD, "nesterov": True}, "nesterov=True cannot be converted"
    yield state, {**TOLD, "eps": 1, "eps_root": 1}, "smaller than what eps alone adds up to in 3 steps"
    yield {"count": 3, "mu": mu, "nu": nu}, {}, "give source='optax.adabelief' or source='optax.adam'"
    yield (
        (state, state),
        {},
        "this optax state holds 2 with count, mu and nu: convert the one .* opt_state.0.",
    )
    yield (
        ScaleByBeliefState(3, tree(mu), tree(nu)),
        TOLD,
        "have names and the optimizer's parameters have none",
    )
    largest = ScaleByAmsgradState(3, mu, nu, nu)
    of_amsgrad = "a state of optax.amsgrad cannot be converted: it divides by the largest v so far"
    for given in (largest, (largest, ()), largest._asdict()):
        yield given, {"source": "optax.adam", "b1": 0.9, "b2": 0.999}, of_amsgrad
    yield state._replace(nu=nu[:2]), TOLD, "mu and nu of this optax state have different names"
    yield (
        state._replace(count=np.array([3, 4])),
        TOLD,
        r"count of this optax state is .*3, 4.*: .* one number",
    )
    yield state._replace(count=None), TOLD, "count of this optax state is None: .* one number"
    yield state._replace(count="three"), TOLD, "count of this optax state is 'three': .* one number"
    yield state._replace(mu=[*mu[:2], "x"]), TOLD, "'2' of this optax state is a str, where an array is exp"
    yield ScaleByAidaState(3, mu, nu), TOLD, r"state of aida_jax: aida_jax\.state_to_torch"
    yield ((ScaleByAidaState(3, mu, nu), ()), {"source": "optax.adabelief"}, "aida_jax.state_to_torch")


REFUSALS = [*refusals()]


@pytest.mark.parametrize(("state", "arguments", "told"), REFUSALS, ids=[told[:40] for *_, told in REFUSALS])
def test_what_is_missing_or_has_no_counterpart_is_told(state, arguments, told):
    with pytest.raises(ValueError, match=told):
        aida.convert_state(state, aida.AdaBelief(parameters(SHAPES)), **arguments)


def test_adam_is_a_warm_start():
    mu, nu = ([np.full(s, x) for s in SHAPES] for x in (0.1, 0.2))
    optimizer = aida.AdamPlus(parameters(SHAPES), lr=0.5, eps=1e-7)
    with pytest.warns(UserWarning, match="AdamPlus from optax.adam: a warm start.* optax.adamax and"):
        made = aida.convert_state(ScaleByAdamState(3, mu, nu), optimizer, b1=0.8, b2=0.9)
    group = made["param_groups"][0]
    assert (group["betas"], group["lr"], group["eps"]) == ((0.8, 0.9), 0.5, 1e-7)
    assert all(bool((s["exp_avg_var"] == 0.2).all()) for s in made["state"].values())


def test_bfloat16_arrays_are_read():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    mu = [np.full(s, 0.1).astype(ml_dtypes.bfloat16) for s in SHAPES]
    optimizer = aida.AdaBelief(parameters(SHAPES))
    made = aida.convert_state(ScaleByBeliefState(3, mu, mu), optimizer, **TOLD)
    assert all(s["exp_avg"].dtype == torch.bfloat16 for s in made["state"].values())
    torch.testing.assert_close(
        made["state"][0]["exp_avg"].float(), torch.full((4, 3), 0.1), rtol=4e-3, atol=0
    )


def test_lists_in_a_tree_are_a_part_of_its_names():
    mu, nu = ([np.full(s, x) for s in SHAPES[:2]] for x in (0.1, 0.2))
    named = [*zip(("blocks.0.scale", "blocks.1.scale"), parameters(SHAPES[:2]), strict=True)]
    optimizer = aida.AdaBelief(reversed(named))
    for form in (
        lambda xs: {"blocks": [{"scale": x} for x in xs]},
        lambda xs: {"blocks": {f"{i}.scale": x for i, x in enumerate(xs)}},
    ):
        made = aida.convert_state(ScaleByBeliefState(3, form(mu), form(nu)), optimizer, **TOLD)
        assert [tuple(s["exp_avg"].shape) for s in made["state"].values()] == [*reversed(SHAPES[:2])]
    top = aida.AdaBelief([(name.removeprefix("blocks."), p) for name, p in named])
    state = ScaleByBeliefState(3, *([{"scale": x} for x in xs] for xs in (mu, nu)))
    assert len(aida.convert_state(state, top, **TOLD)["state"]) == 2


def test_leaves_of_none_have_no_state_and_tensors_are_taken_as_they_are():
    """As masked transforms leave them, and checkpoints that torch has written; in lists too."""
    lists = ([np.full(SHAPES[0], 0.1), None], [np.full(SHAPES[0], 0.2), None])
    optimizer = aida.AdaBelief(parameters(SHAPES[:2]))
    made = aida.convert_state(ScaleByBeliefState(3, *lists), optimizer, **TOLD)
    assert [*made["state"]] == [0]
    mu = tree([torch.full(s, 0.1, requires_grad=True) for s in SHAPES])
    nu = tree([torch.full(s, 0.2) for s in SHAPES])
    mu["layer"]["none"] = nu["layer"]["none"] = None
    named = [*zip(names(len(SHAPES)), parameters(SHAPES), strict=True)]
    extra = ("layer.none", torch.nn.Parameter(torch.ones(2)))
    optimizer = aida.AdaBelief([*named, extra])
    with pytest.warns(UserWarning, match="the saved state has no 'layer.none'"):
        made = aida.convert_state(ScaleByBeliefState(3, mu, nu), optimizer, **TOLD)
    assert sorted(made["state"]) == [*range(len(SHAPES))]
    for i, state in made["state"].items():
        assert torch.equal(state["exp_avg"], torch.full(SHAPES[i], 0.1))
        assert not state["exp_avg"].requires_grad
