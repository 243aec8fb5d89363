"""Every known optimizer's stepsize against what its step did: p before less p after is step_size*u*d."""

from functools import partial

import pytest
import torch
from pytorch_optimizer import AdaBelief as TheirAdaBelief
from timm.optim.adabelief import AdaBelief as TimmAdaBelief
from torch import optim

import aida
from aida.monitor import layer_stepsizes
from aida.monitor.definitions import definition_for
from helpers.members import CASES, parameters, set_gradients

BELIEF = dict(lr=1e-2, eps=1e-6, rectify=False, weight_decouple=False)
OTHERS = [
    partial(optim.Adam, eps=1e-6),
    partial(optim.Adam, amsgrad=True, weight_decay=0.1, maximize=True),
    partial(optim.AdamW, weight_decay=0.1),
    partial(optim.RAdam, betas=(0.9, 0.9), weight_decay=0.1, eps=1e-3),
    partial(optim.RAdam, weight_decay=0.1),  # before step 6 not yet rectified
    partial(optim.Adamax, eps=1e-3, weight_decay=0.1),
    partial(optim.RMSprop, eps=1e-3, weight_decay=0.1),
    partial(optim.RMSprop, centered=True, eps=1e-3),
    partial(optim.RMSprop, momentum=0.9, weight_decay=0.1),
    partial(optim.Adagrad, lr_decay=0.1, weight_decay=0.1, eps=1e-3),
    partial(TheirAdaBelief, **BELIEF, weight_decay=0.1),
    partial(TheirAdaBelief, **BELIEF, foreach=False, ams_bound=True),
    partial(TheirAdaBelief, **{**BELIEF, "rectify": True}, betas=(0.9, 0.9)),
    partial(TheirAdaBelief, **{**BELIEF, "rectify": True}),
    partial(TheirAdaBelief, **BELIEF, adam_debias=True),
    partial(TimmAdaBelief, lr=1e-2, eps=1e-6, rectify=False, decoupled_decay=False, weight_decay=0.1),
    partial(TimmAdaBelief, lr=1e-2, eps=1e-6, rectify=False, amsgrad=True),
    partial(TimmAdaBelief, lr=1e-2, eps=1e-6, rectify=True, betas=(0.9, 0.9)),
    partial(TimmAdaBelief, lr=1e-2, eps=1e-6, rectify=True, degenerated_to_sgd=False),
]


def family(case):
    cls, kwargs = case
    return partial(cls, **kwargs)


def last_step(make, steps):
    """(optimizer, [(p, group, state, p before, m before)]) around the last of a few steps in float64."""
    params = parameters(dtype=torch.float64)
    optimizer = make(params)
    for t in range(steps):
        set_gradients(params, t)
        before = [p.detach().clone() for p in params]
        m = [
            optimizer.state[p]["exp_avg"].clone() if "exp_avg" in optimizer.state[p] else None for p in params
        ]
        optimizer.step()
    states = [(p, optimizer.param_groups[0], optimizer.state[p]) for p in params]
    return optimizer, [(*s, x, y) for s, x, y in zip(states, before, m, strict=True)]


def stepsizes(d):
    v = d.v if d.less is None else d.v - d.less**2
    x = v * d.scale + d.floor
    u = 1 / ((x.sqrt() if d.root else x) + d.eps_out)
    return u.mean() if d.pooled else u


def decoupled(optimizer, group):
    """The factor on p of a decoupled decay."""
    keys = ("decoupled_weight_decay", "decoupled_decay", "weight_decouple")
    on = isinstance(optimizer, optim.AdamW)  # whose groups say nothing before torch 2.7
    on = on or any(group.get(key) for key in keys)
    return 1 - group["lr"] * group["weight_decay"] if on else 1.0


@pytest.mark.parametrize(
    "make", [*map(family, CASES), *OTHERS], ids=lambda f: f"{f.func.__name__}-{f.keywords}"
)
@pytest.mark.parametrize("steps", [3, 6])
def test_a_step_moves_each_element_by_its_stepsize(make, steps):
    optimizer, layers = last_step(make, steps)
    define = definition_for(optimizer)
    for (p, group, state, before, m_before), row in zip(layers, layer_stepsizes(optimizer), strict=True):
        d = define(optimizer, group, state)
        u, moved = stepsizes(d), before * decoupled(optimizer, group) - p.detach()
        g = p.grad if not d.maximize else -p.grad
        g = g + d.weight_decay * before
        if d.buffer is not None:
            update = d.step_size * d.buffer
        else:
            update = d.step_size * u * (g if d.m is None else d.m)
        torch.testing.assert_close(update, moved, rtol=1e-9, atol=1e-15)
        if d.m is not None:  # the gradient that the step itself used
            used = (d.m - group["betas"][0] * m_before) / (1 - group["betas"][0])
            torch.testing.assert_close(g, used, rtol=1e-9, atol=1e-13)
            cos = (used * d.m).sum() / used.norm() / d.m.norm()
            assert row["cos"] == pytest.approx(cos.item(), rel=1e-9, abs=1e-12)
        assert row["g_norm"] == pytest.approx(g.norm().item(), rel=1e-9)
        assert row["update_ratio"] == pytest.approx((moved.norm() / p.norm()).item(), rel=1e-9)
        assert row["mean"] == pytest.approx(u.mean().item(), rel=1e-9)
        assert row["step"] == steps


@pytest.mark.parametrize(
    "make", [*map(family, CASES), *OTHERS], ids=lambda f: f"{f.func.__name__}-{f.keywords}"
)
def test_vanishing_gradients_bring_every_stepsize_to_the_cap(make):
    params = parameters(dtype=torch.float64)
    optimizer = make(params)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    for t in range(300):
        set_gradients(params, t, scale=1e-30)
        optimizer.step()
    for row in layer_stepsizes(optimizer):
        belief_in_v = type(optimizer) in (TheirAdaBelief, TimmAdaBelief)
        if row["cap"] is None:
            assert row["capped"] is None
        else:  # their eps takes 1/(1-b2) steps to add up, but the bias correction makes up for it
            assert row["min"] == pytest.approx(row["cap"], rel=1e-2 if belief_in_v else 1e-6)
            assert row["capped"] == 1.0


def test_adamws_decay_is_decoupled_where_its_groups_do_not_say_so():
    """As those of torch before 2.7."""
    optimizer, _ = last_step(partial(optim.AdamW, weight_decay=0.1), 3)
    told = layer_stepsizes(optimizer)
    for group in optimizer.param_groups:
        group.pop("decoupled_weight_decay", None)
    assert layer_stepsizes(optimizer) == told
    for row, p in zip(told, optimizer.param_groups[0]["params"], strict=True):
        assert row["g_norm"] == pytest.approx(p.grad.norm().item(), rel=1e-12)


def test_a_definition_of_ones_own_can_be_added(monkeypatch):
    class Half(optim.Adam):
        pass

    table = aida.monitor.DEFINITIONS
    own = f"{Half.__module__}.{Half.__qualname__}"
    monkeypatch.setitem(table, own, lambda o, group, state: aida.monitor.Definition(
        step=state["step"].item(), v=state["exp_avg_sq"], step_size=0.0, scale=0.0, floor=4.0
    ))  # fmt: skip
    params = parameters()
    optimizer = Half(params)
    set_gradients(params, 0)
    optimizer.step()
    assert {row["mean"] for row in layer_stepsizes(optimizer)} == {0.5}
