"""Backend x rule x layerwise x type x shape, each step against one step of eager in float64.

The oracle starts every step from the tested backend's own state, so that errors do not add up and limits are
those of one step's rounding.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import Parameter

from aida import family
from aida.backends import eager
from aida.backends.contract import Layers, Scalars
from helpers.backends import BACKENDS, every_backend, every_type
from helpers.members import CASES, name, parameters, set_gradients

RULES = {
    "gradient": family.GRADIENT,
    "belief": family.BELIEF,
    "K=2": lambda gg, gm, mm: family.projection(gg, gm, mm, K=2, xi=1e-20),
    "K=3": lambda gg, gm, mm: family.projection(gg, gm, mm, K=3, xi=1e-2),
    "fractions": (0.5, 0.25),
    "integers": (1, 0),
    "integers of a function": lambda gg, gm, mm: (0, -1),
    "one for all layers": lambda gg, gm, mm: (gm.mean() / gg.mean(), 1 / (1 + mm.mean())),
    "an array and a number": lambda gg, gm, mm: (1 / (1 + gg), 1),
}
# Of the largest element of m, v and the update, beside half a unit in the last place of a narrow p.
LIMIT = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 1e-6, torch.float16: 1e-6}
ULPS = {torch.float64: 2, torch.float32: 2, torch.bfloat16: 0.501, torch.float16: 0.501}
SHAPES = [(), (1,), (5,), (7, 3), (0,), (3, 0, 2), (4, 3, 3, 3), (6, 5), (70_000,)]
CHANNELS_LAST, WITH_GAPS = SHAPES.index((4, 3, 3, 3)), SHAPES.index((6, 5))


def layers(dtype, layerwise):
    """One layer a shape: one channels-last, one with gaps whose gradient has other strides."""
    wide = torch.promote_types(dtype, torch.float32)
    p = [q.detach() for q in parameters(SHAPES, dtype)]
    p[CHANNELS_LAST] = p[CHANNELS_LAST].contiguous(memory_format=torch.channels_last)
    p[WITH_GAPS] = torch.stack([p[WITH_GAPS]] * 2, dim=-1)[..., 0]
    m = [torch.randn_like(q, dtype=wide) for q in p]
    v = [torch.rand((), dtype=wide) if layerwise == "pre" else torch.rand_like(q, dtype=wide) for q in p]
    return Layers(p, gradients(p), m, v, [max(q.numel(), 1) for q in p])


def gradients(p):
    g = [torch.randn_like(q) for q in p]
    g[WITH_GAPS] = g[WITH_GAPS].t().contiguous().t()
    return g


def scalars(layerwise, decoupled):
    """Every number its own, and every layer's its own."""
    n = len(SHAPES)
    return Scalars(
        b1=0.8,
        b2=0.7,
        weight_decay=0.0 if decoupled else 0.1,
        decay_factor=0.9 if decoupled else 1.0,
        sign=-1.0 if decoupled else 1.0,
        layerwise=layerwise,
        inv_bias2=[1.0 + 0.1 * i for i in range(n)],
        eps_in_root=[1e-3 * (i + 1) for i in range(n)],
        eps_out=[1e-2 * i for i in range(n)],
        step_size=[0.1 + 0.01 * i for i in range(n)],
    )


def step(backend, layers, rule, s):
    """One step as the optimizers take it, and every sum that it took."""
    gram = torch.as_tensor(np.asarray(backend.gram(layers, s)))
    gg, gm, mm, dd = gram.T
    coefficients = rule(gg, gm, mm) if callable(rule) else rule
    total = None
    if s.layerwise == "pre":
        total = family.residual_square(*coefficients, gg, gm, dd)
    elif s.layerwise == "post":
        total = backend.stepsize_sum(layers, coefficients, s)
    backend.apply(layers, coefficients, total, s)
    return gram, total


def widened(layers):
    wide = [
        [x.detach().to(torch.float64, copy=True) for x in tensors]
        for tensors in (layers.p, layers.g, layers.m, layers.v)
    ]
    return Layers(*wide, layers.numel)


def check(p, m, v, before, after, dtype):
    """p, m and v of one layer against the oracle's (p, m, v), whose p was `before`."""
    p64, m64, v64 = after
    # A pooled v is as near as the sums that it is made of.
    for ours, oracle, times in ((m, m64, 1), (v, v64, 3 if v.ndim == 0 else 1)):
        assert (ours - oracle).abs().max() <= times * LIMIT[dtype] * oracle.abs().max()
    wide = torch.promote_types(dtype, torch.float32)
    rounding = ULPS[dtype] * torch.finfo(dtype).eps * p64.abs() + 2 * torch.finfo(wide).eps * before.abs()
    assert ((p - p64).abs() <= rounding + LIMIT[dtype] * (p64 - before).abs().max()).all()


def compare(backend, dtype, rule, layerwise, decoupled, steps=3, oracle_scalars=None, of_g=None):
    s = scalars(layerwise, decoupled)
    ours = layers(dtype, layerwise)
    for _ in range(steps):
        g = [x.to(of_g or dtype) for x in gradients(ours.p)]
        ours = Layers(ours.p, g, ours.m, ours.v, ours.numel)  # as for every step
        oracle, before, kept = widened(ours), widened(ours), [g.clone() for g in ours.g]
        sums = step(backend, ours, rule, s)
        expected = step(eager, oracle, rule, oracle_scalars or s)
        for got, want in zip(sums, expected, strict=True):
            if want is not None:
                limit = LIMIT[dtype]
                np.testing.assert_allclose(got, want, rtol=3 * limit, atol=limit)
        for i in range(len(SHAPES)):
            assert torch.equal(ours.g[i], kept[i])
            if ours.p[i].numel():
                after = oracle.p[i], oracle.m[i], oracle.v[i]
                check(ours.p[i], ours.m[i], ours.v[i], before.p[i], after, dtype)


@every_backend
@every_type
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layerwise", [None, "pre", "post"])
def test_a_step_of_layers(backend, dtype, rule, layerwise):
    module = backend.load(dtype)
    for decoupled in (False, True):
        compare(module, dtype, RULES[rule], layerwise, decoupled)


@every_backend
@pytest.mark.parametrize("of_g", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layerwise", [None, "pre", "post"])
def test_a_step_of_float64_is_one_whatever_type_its_gradient_has(backend, of_g, layerwise):
    """A narrower gradient, as grad_dtype allows, is the number that it is, and narrows nothing else."""
    module = backend.load(torch.float64)
    for decoupled in (False, True):
        compare(module, torch.float64, RULES["K=2"], layerwise, decoupled, of_g=of_g)


@pytest.mark.parametrize("number", ["b1", "b2", "weight_decay", "decay_factor", "sign"])
@every_type
def test_a_number_that_is_off_is_seen(number, dtype):
    """Negative control: the comparison fails at one part in ten thousand (or what p's type can tell)."""
    s = scalars(None, False)
    value = getattr(s, number)
    off = 0.1 if number == "decay_factor" and dtype.itemsize == 2 else 1e-4
    wrong = replace(s, **{number: value * (1 - off)})
    with pytest.raises(AssertionError):
        compare(eager, dtype, family.BELIEF, None, False, oracle_scalars=wrong)


@pytest.mark.parametrize("column", ["inv_bias2", "eps_in_root", "eps_out", "step_size"])
def test_a_column_that_is_shifted_is_seen(column):
    s = scalars(None, False)
    values = getattr(s, column)
    with pytest.raises(AssertionError):
        compare(
            eager, torch.float32, family.BELIEF, None, False,
            oracle_scalars=replace(s, **{column: [*values[1:], values[0]]}),
        )  # fmt: skip


@every_backend
@every_type
@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_step_of_an_optimizer(backend, dtype, case):
    """Groups, state and counters around the same step; the oracle is loaded with the state before each."""
    cls, kwargs = case
    if kwargs.get("capturable") and backend is BACKENDS["cpu"]:
        pytest.skip("counts stay tensors, which the CPU kernel does not read")
    backend.load(dtype)
    shapes = [(), (1,), (5,), (7, 3), (0,)]
    params = parameters(shapes, dtype)
    optimizer = cls(params, **{"lr": 0.1, **kwargs, **backend.arguments})
    for t in range(3):
        set_gradients(params, t)
        before = [p.detach().to(torch.float64, copy=True) for p in params]
        oracle = [Parameter(b.clone()) for b in before]
        reference = cls(oracle)
        reference.load_state_dict(optimizer.state_dict())
        reference.param_groups[0].update(foreach=False, fused=None)
        for q, p in zip(oracle, params, strict=True):
            q.grad = p.grad.double()
        optimizer.step()
        reference.step()
        for p, q, b in zip(params, oracle, before, strict=True):
            ours, theirs = (SimpleNamespace(**o.state[x]) for o, x in ((optimizer, p), (reference, q)))
            assert ours.step == theirs.step == t + 1
            if p.numel():
                after = q.detach(), theirs.exp_avg, theirs.exp_avg_var
                check(p.detach(), ours.exp_avg, ours.exp_avg_var, b, after, dtype)
