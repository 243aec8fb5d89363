"""Exploding, infinite and zero gradients, and infinite parameters, in every backend and member."""

import math

import pytest
import torch
from torch.nn import Parameter

import aida
from aida.backends import eager
from aida.backends.contract import Layers, Scalars
from helpers.backends import BACKENDS, every_backend
from helpers.extremes import (
    CASES,
    FEW,
    MAGNITUDES,
    OPTIONS,
    check_exploded,
    check_not_finite,
    exploded,
    gradient,
)
from helpers.members import MEMBERS, name

every_case = pytest.mark.parametrize("case", CASES, ids=name)
F64, F32, B16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16


@every_backend
@every_case
def test_a_gradient_that_explodes_is_survived(backend, case):
    backend.load()
    check_exploded(backend.arguments, *case, magnitudes=MAGNITUDES)


@every_backend
@pytest.mark.parametrize("case", FEW, ids=name)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_so_it_is_with_every_option(backend, case, options):
    backend.load()
    check_exploded(backend.arguments, *case, **options)


@every_backend
@pytest.mark.parametrize("case", FEW, ids=name)
@pytest.mark.parametrize("dtype", [B16, F16], ids=str)
def test_so_it_is_by_narrow_parameters(backend, case, dtype):
    backend.load(dtype)
    check_exploded(backend.arguments, *case, dtype=dtype)


@every_backend
@every_case
def test_so_it_is_in_float64_beyond_its_squares(backend, case):
    backend.load(F64)
    for worst in (1e150, 1e160, 1e200, 1e300):
        for whole in (False, True):
            cls, own = case
            found = exploded(cls, worst, whole=whole, dtype=F64, **own, **backend.arguments)
            assert all(x.isfinite().all() for x in (*found["p"], *found["m"])), (worst, whole)


def test_torchs_adam_survives_the_same():
    for worst in MAGNITUDES:
        assert all(p.isfinite().all() for p in exploded(torch.optim.Adam, worst, whole=True)["p"])


@every_backend
@every_case
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_as_in_torchs_adam(backend, case, value):
    backend.load()
    check_not_finite(backend.arguments, *case, value)


@every_backend
@pytest.mark.parametrize("magnitude", [1e-3, 1.0, *MAGNITUDES])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sums_are_float64s(backend, magnitude, weight_decay):
    """Of layers below and above every tile and run, with one large element, and with nothing but."""
    module = backend.load()
    p = [torch.ones(n) for n in (1, 17, 1500, 70_001) for _ in range(2)]
    g = [gradient(x, i) for i, x in enumerate(p)]
    for i, x in enumerate(g):
        (x if i % 2 else x[-1:]).mul_(magnitude)
    m = [-0.5 * x for x in g]  # m - g is up to 2.8 times as large as the updated m
    columns = [[c] * len(p) for c in (1.0, 1e-5, 0.0, 1e-3)]
    s = Scalars(0.9, 0.999, weight_decay, 1.0, 1.0, None, *columns)
    numel = [x.numel() for x in p]
    ours = torch.as_tensor(module.gram(Layers(p, g, m, [x * x for x in m], numel), s))
    wide = Layers([x.double() for x in p], [x.double() for x in g], [x.double() for x in m], [], numel)
    torch.testing.assert_close(ours, eager.gram(wide, s), rtol=2e-6, atol=0)


@every_backend
@pytest.mark.parametrize("cls", MEMBERS)
@pytest.mark.parametrize("state_dtype", [None, B16], ids=str)
@pytest.mark.parametrize("decoupled", [False, True])
def test_an_infinite_parameter_is_not_read_for_g(backend, cls, state_dtype, decoupled):
    backend.load()
    decay = dict(weight_decay=0.1, decoupled_weight_decay=True) if decoupled else {}
    p = Parameter(torch.tensor([math.inf, -math.inf, 1.0, 2.0]))
    optimizer = cls([p], state_dtype=state_dtype, **decay, **backend.arguments)
    for _ in range(2):
        p.grad = torch.tensor([0.0, 0.0, 1.0, 0.0])
        optimizer.step()
    state = optimizer.state[p]
    assert p.detach()[:2].tolist() == [math.inf, -math.inf]
    assert p.detach()[2] < 1
    assert state["exp_avg"].tolist()[:2] == [0.0, 0.0]
    assert state["exp_avg_var"].isfinite().all()


POST = [(c, own) for c, own in CASES if own.get("layerwise") == "post"]


@every_backend
@pytest.mark.parametrize("case", POST, ids=name)
def test_elements_that_never_moved_are_left_out_of_the_mean(backend, case):
    """Rows of an embedding that no batch has used do not change how far the used ones move."""
    backend.load()
    cls, own = case
    small, large = Parameter(torch.zeros(4, 8)), Parameter(torch.zeros(1000, 8))
    for p in (small, large):
        optimizer = cls([p], lr=1e-3, **own, **backend.arguments)
        for t in range(4):
            p.grad = torch.zeros_like(p)
            p.grad[:4] = gradient(small, t)
            optimizer.step()
            if t == 0:
                assert p.detach().abs().max() < 0.01  # 0.3 with a mean over all
    assert not large[4:].any()
    torch.testing.assert_close(large[:4], small, rtol=1e-5, atol=0)


@every_backend
def test_where_every_v_is_zero_the_mean_is_their_stepsize(backend):
    """With b1 = 0 the residual m - g is zero: u = sqrt((1-b2)/eps), and p moves by lr*u*m."""
    backend.load()
    p = Parameter(torch.zeros(5))
    optimizer = aida.LAdaBelief([p], lr=0.5, betas=(0.0, 0.99), layerwise="post", **backend.arguments)
    p.grad = torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5])
    optimizer.step()
    torch.testing.assert_close(p.detach(), -0.5 * (0.01 / 1e-8) ** 0.5 * p.grad)


def test_a_mean_over_all_elements_is_seen(monkeypatch):
    """Negative control."""
    counted = eager.stepsize_sum
    monkeypatch.setattr(
        eager,
        "stepsize_sum",
        lambda layers, *rest: torch.stack([counted(layers, *rest)[:, 0], torch.tensor(layers.numel)], dim=1),
    )
    with pytest.raises(AssertionError):
        test_elements_that_never_moved_are_left_out_of_the_mean(BACKENDS["eager"], POST[0])
