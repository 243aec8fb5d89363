"""Whatever the shape, type and settings: finite stays finite, backends agree, runs repeat."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import Parameter

from helpers.members import MEMBERS, assert_bitwise, assert_near, coefficients, set_gradients, snapshot

SHAPES = st.lists(
    st.sampled_from([(), (1,), (3,), (2, 5), (0,), (4, 1, 3), (2, 3, 2, 2)]), min_size=1, max_size=4
)


@st.composite
def members(draw, **fixed):
    """A member with settings of its own."""
    cls = draw(st.sampled_from(MEMBERS))
    kwargs = dict(
        lr=draw(st.sampled_from([0.0, 1e-4, 0.1, 2.0])),
        betas=(draw(st.sampled_from([0.0, 0.5, 0.9])), draw(st.sampled_from([0.0, 0.5, 0.9, 0.999]))),
        eps=draw(st.sampled_from([1e-16, 1e-8, 1e-2])),
        weight_decay=draw(st.sampled_from([0.0, 0.1])),
        decoupled_weight_decay=draw(st.booleans()),
        maximize=draw(st.booleans()),
        rectify=draw(st.booleans()),
    )
    own = {
        "K": st.integers(0, 6),
        "xi": st.sampled_from([1e-20, 1e-8, 1.0]),
        "layerwise": st.sampled_from(["pre", "post"]),
    }
    return cls, {**kwargs, **{k: draw(own[k]) for k in cls.own if k in own}, **fixed}


def built(member, shapes, dtype, foreach, scale=1.0):
    cls, kwargs = member
    generator = torch.Generator().manual_seed(5)
    wide = [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    params = [Parameter(w.to(dtype)) for w in wide]
    return cls(params, foreach=foreach, **kwargs), params


GRADIENTS = {
    "zero": lambda p, t: torch.zeros_like(p),
    "tiny": lambda p, t: torch.full_like(p, 1e-30),
    "huge": lambda p, t: torch.full_like(p, 1e18),
    "huge, turning": lambda p, t: torch.full_like(p, 1e18 * (-1) ** t),
    "huge, then zero": lambda p, t: torch.full_like(p, 1e18 if t == 0 else 0.0),
    "zero, then huge": lambda p, t: torch.full_like(p, 1e18 if t == 2 else 0.0),
    "tiny, then huge": lambda p, t: torch.full_like(p, 1e18 if t == 2 else 1e-30),
    "mixed": lambda p, t: torch.logspace(-30, 18, max(p.numel(), 1))[: p.numel()].view_as(p).to(p),
    "smallest": lambda p, t: torch.full_like(p, torch.finfo(torch.float32).smallest_normal / 2**20),
    "the parameter": lambda p, t: p.detach().clone(),
}


@settings(max_examples=120)
@given(member=members(), shapes=SHAPES, kind=st.sampled_from(list(GRADIENTS)), foreach=st.booleans())
def test_finite_gradients_leave_everything_finite(member, shapes, kind, foreach):
    """Except where the user's own step is too long for float32: p - lr*m is then checked by its size."""
    if (member[1]["rectify"] and "huge" in kind) or kind == "mixed":
        member[1]["lr"] = min(member[1]["lr"], 1e-4)
    optimizer, params = built(member, shapes, torch.float32, foreach)
    for t in range(4):
        for p in params:
            p.grad = GRADIENTS[kind](p, t)
        optimizer.step()
        for x in snapshot(optimizer):
            assert torch.isfinite(x).all()


@pytest.mark.parametrize("cls", MEMBERS)
@pytest.mark.parametrize("foreach", [False, True])
def test_m_equal_to_g(cls, foreach):
    """A constant gradient with b1 = 0: m - g = 0 exactly, and v stays 0 where alpha and beta are equal."""
    p = Parameter(torch.tensor([1.0, -2.0]))
    optimizer = cls([p], betas=(0.0, 0.999), foreach=foreach)
    for _ in range(3):
        p.grad = torch.tensor([0.3, -0.7])
        optimizer.step()
    v = optimizer.state[p]["exp_avg_var"]
    assert torch.isfinite(p).all()
    alpha, beta = coefficients(cls, {}, *[0.3**2 + 0.7**2] * 3)
    assert (v.abs().max() < 1e-9) == (alpha == beta)


@settings(max_examples=80)
@given(member=members(), shapes=SHAPES, scale=st.sampled_from([1e-9, 1.0, 1e6]))
def test_foreach_is_eager(member, shapes, scale):
    """p, m, v and step after every step, in float64, within 1e-12 of the largest element."""
    runs = [built(member, shapes, torch.float64, foreach) for foreach in (False, True)]
    for t in range(4):
        for optimizer, params in runs:
            set_gradients(params, t, scale)
            optimizer.step()
        eager, foreach = (snapshot(optimizer) for optimizer, _ in runs)
        assert_near(foreach, eager)


@settings(max_examples=40)
@given(
    member=members(),
    shapes=SHAPES,
    foreach=st.sampled_from([False, True, None]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_two_runs_are_bitwise_equal_and_gradients_untouched(member, shapes, foreach, dtype):
    runs = [built(member, shapes, dtype, foreach) for _ in range(2)]
    for t in range(3):
        for optimizer, params in runs:
            set_gradients(params, t)
            before = [p.grad.clone() for p in params]
            optimizer.step()
            assert_bitwise([p.grad for p in params], before)
    first, second = (snapshot(optimizer) for optimizer, _ in runs)
    assert_bitwise([x.nan_to_num() for x in first], [x.nan_to_num() for x in second])


@settings(max_examples=40)
@given(member=members(), shapes=SHAPES, foreach=st.booleans())
def test_maximizing_minus_f_is_minimizing_f(member, shapes, foreach):
    cls, kwargs = member
    runs = [built((cls, {**kwargs, "maximize": m}), shapes, torch.float64, foreach) for m in (False, True)]
    for t in range(3):
        for (optimizer, params), sign in zip(runs, (1.0, -1.0), strict=True):
            set_gradients(params, t, sign)
            optimizer.step()
    assert_bitwise(*(snapshot(optimizer) for optimizer, _ in runs))


@settings(max_examples=40)
@given(member=members(K=2), factor=st.sampled_from([2.0**-40, 2.0**30]))
def test_a_layer_knows_nothing_of_the_others(member, factor):
    """Whatever the other layers' gradients are, bitwise the same step as alone."""
    cls, kwargs = member
    kwargs = {k: v for k, v in kwargs.items() if k != "K" or "K" in cls.own}
    (alone, (p,)), (beside, (q, other)) = (
        built((cls, kwargs), shapes, torch.float32, True) for shapes in ([(3, 2)], [(3, 2), (5,)])
    )
    for t in range(3):
        set_gradients([p], t)
        set_gradients([q, other], t)
        other.grad *= factor
        alone.step()
        beside.step()
    assert_bitwise([p.detach()], [q.detach()])
