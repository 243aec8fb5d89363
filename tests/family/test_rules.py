"""The facts of the family: the rules' mathematics, and what the members are of each other."""

import contextlib
import io
import math
from fractions import Fraction

import pytest
import torch
from torch.nn import Parameter

import aida
from aida import family
from aida.backends import eager
from helpers.members import MEMBERS, assert_near, parameters, snapshot, train

F64 = torch.float64


def pair(angle, *, size=1.0, n=20):
    """g and m in n dimensions with the given angle between them, and their inner products."""
    generator = torch.Generator().manual_seed(3)
    basis, _ = torch.linalg.qr(torch.randn(n, 2, generator=generator, dtype=F64))
    g, m = size * basis[:, 0], 0.7 * size * (math.cos(angle) * basis[:, 0] + math.sin(angle) * basis[:, 1])
    return g, m, [(a @ b).item() for a, b in ((g, g), (g, m), (m, m))]


def project_vectors(g, m, K, xi):
    """The paper's K mutual projections, on the vectors themselves."""
    for _ in range(K):
        inner = g @ m
        g, m = inner / (g @ g + xi) * g, inner / (m @ m + xi) * m
    return g, m


ANGLES = [0.0, 0.3, 1.0, math.pi / 2, 2.5, math.pi]


@pytest.mark.parametrize("K", range(7))
@pytest.mark.parametrize("xi", [1e-20, 1e-2, 10.0])
@pytest.mark.parametrize("angle", ANGLES)
def test_the_recurrence_is_the_projection_of_vectors(K, xi, angle):
    g, m, inner = pair(angle)
    alpha, beta = family.projection(*inner, K=K, xi=xi)
    for ours, theirs in zip((alpha * g, beta * m), project_vectors(g, m, K, xi), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize("K", range(7))
@pytest.mark.parametrize("angle", ANGLES)
def test_closed_forms_without_xi(K, angle):
    g, m, (gg, gm, mm) = pair(angle)
    alpha, beta = family.projection(gg, gm, mm, K=K, xi=1e-300)
    if K % 2:
        closed = math.cos(angle) ** (K - 1) * (gm / mm * m - gm / gg * g)
    else:
        closed = math.cos(angle) ** K * (m - g)
    torch.testing.assert_close(beta * m - alpha * g, closed, rtol=0, atol=1e-14)


@pytest.mark.parametrize("K", [2, 4])
def test_where_gradients_are_tiny_xi_counts(K):
    """At gg near xi the recurrence is far from the closed form, and the step follows the recurrence."""
    angle, xi = 0.5, 1e-20
    g, m, inner = pair(angle, size=1e-9)
    g1, g2 = g, (m - 0.9 * 0.1 * g) / 0.1  # two gradients that give this m after two steps at b1 = 0.9
    projected_g, projected_m = project_vectors(g2, m, K, xi)
    closed = math.cos(angle) ** K * (m - g)
    alpha, beta = family.projection(*inner, K=K, xi=xi)
    assert (beta * m - alpha * g - closed).norm() > 1e-3 * closed.norm()
    p = Parameter(torch.zeros_like(g))
    optimizer = aida.Aida([p], betas=(0.9, 0.0), K=K, xi=xi, eps=1e-30)
    for gradient in (g1, g2):
        p.grad = gradient.clone()
        optimizer.step()
    assert_near([optimizer.state[p]["exp_avg"]], [m])
    assert_near([optimizer.state[p]["exp_avg_var"]], [(projected_m - projected_g) ** 2], 1e-10)


@pytest.mark.parametrize("K", [0, 1, 2, 5])
def test_no_gradient_gives_no_division_by_zero(K):
    alpha, beta = family.projection(0.0, 0.0, 0.0, K=K, xi=1e-20)
    assert (alpha, beta) == ((1.0, 1.0) if K == 0 else (0.0, 0.0))


def moments(cls, shapes=((6, 3),), steps=3, **kwargs):
    optimizer = cls(parameters(shapes, dtype=F64), eps=1e-6, **kwargs)
    train(optimizer, range(steps))
    return snapshot(optimizer)


def test_aida_2_is_adabelief_damped_by_cos_to_the_fourth():
    """v of Aida(K=2) from AdaBelief's residuals, layer by layer, and no other power of the cosine."""
    params = parameters([(6, 3), (7,)], dtype=F64)
    optimizer, b1, b2 = aida.Aida(params, betas=(0.9, 0.99)), 0.9, 0.99
    m, v, wrong = ([torch.zeros_like(p) for p in params] for _ in range(3))
    for t in range(4):
        train(optimizer, [t])
        for i, p in enumerate(params):
            m[i] = b1 * m[i] + (1 - b1) * p.grad
            cos2 = (m[i] * p.grad).sum() ** 2 / ((m[i] ** 2).sum() * (p.grad**2).sum())
            v[i] = b2 * v[i] + (1 - b2) * cos2**2 * (m[i] - p.grad) ** 2
            wrong[i] = b2 * wrong[i] + (1 - b2) * cos2 * (m[i] - p.grad) ** 2
    ours = [optimizer.state[p]["exp_avg_var"] for p in params]
    assert_near(ours, v)
    with pytest.raises(AssertionError, match="apart"):
        assert_near(ours, wrong, 0.1)


def test_no_projection_is_adabeliefs_residual():
    """The moments are AdaBelief's; the parameters are not, which has a second eps outside the root."""
    aida0, belief = moments(aida.Aida, K=0), moments(aida.AdaBelief)
    assert_near(aida0[1:], belief[1:])
    assert not torch.equal(aida0[0], belief[0])
    assert_near(moments(aida.LAida, K=0), moments(aida.LAdaBelief))
    assert_near(moments(aida.LAida, K=0, layerwise="post"), moments(aida.LAdaBelief, layerwise="post"))


@pytest.mark.parametrize("K", range(1, 5))
@pytest.mark.parametrize(("shape", "steps"), [((1,), 3), ((6, 3), 1)], ids=["one element", "first step"])
def test_where_m_is_parallel_to_g_nothing_is_damped(K, shape, steps):
    """cos^2 = 1 in a layer of one element, and in every layer at t=1; odd K then swap g and m."""
    ours, belief = (moments(c, [shape], steps, **k) for c, k in ((aida.Aida, {"K": K}), (aida.AdaBelief, {})))
    assert_near(ours[1:], belief[1:])
    damped = moments(aida.Aida, [(6, 3)], 2, K=K)
    assert (damped[2] - moments(aida.AdaBelief, [(6, 3)], 2)[2]).abs().max() > 1e-6


def test_layerwise_members_on_layers_of_one_element_are_elementwise():
    for layerwise in ("pre", "post"):
        shapes = [(1,), (), (1, 1)]
        for pooled, elementwise in ((aida.LAdam, aida.AdamPlus), (aida.LAida, aida.Aida)):
            ours, theirs = moments(pooled, shapes, layerwise=layerwise), moments(elementwise, shapes)
            assert_near([x.view(1) for x in ours], [x.view(1) for x in theirs])


@pytest.mark.parametrize(
    ("pooled", "elementwise"),
    [(aida.LAdaBelief, {"cls": aida.Aida, "K": 0}), (aida.LAdam, {"cls": aida.AdamPlus})],
)
@pytest.mark.parametrize("layerwise", ["pre", "post"])
def test_pooling_is_the_mean_it_says(pooled, elementwise, layerwise):
    """ "post": the mean of the elementwise stepsizes u. "pre": the mean of r^2 in v."""
    lr, b1, b2, eps, steps = 0.1, 0.9, 0.99, 1e-6, 3
    shared = dict(lr=lr, betas=(b1, b2))
    before, after = (moments(pooled, steps=n, layerwise=layerwise, **shared) for n in (steps - 1, steps))
    _, m, v, _ = moments(**{**shared, **elementwise, "steps": steps})
    v = v.mean() if layerwise == "pre" else v
    u = (1 / (v / (1 - b2**steps) + eps / (1 - b2)).sqrt()).mean()
    assert_near(after[1:3], [m, v])
    assert_near([after[0]], [before[0] - lr / (1 - b1**steps) * u * m])


@pytest.mark.parametrize("cls", MEMBERS)
def test_the_stepsize_is_capped_where_gradients_vanish(cls):
    """u = sqrt((1-b2)/eps) = 316.23 for gradients of 1e-12; p then moves by lr*cap*m/(1-b1^t)."""
    p = Parameter(torch.zeros(4, dtype=F64))
    optimizer = cls([p], lr=0.5)
    p.grad = torch.full_like(p, 1e-12)
    optimizer.step()
    cap = family.stepsize_cap(1e-8, 0.999)
    assert cap == pytest.approx(316.2278, rel=1e-6)
    torch.testing.assert_close(p.detach(), torch.full_like(p, -0.5 * cap * 1e-12), rtol=1e-5, atol=0)


@pytest.mark.parametrize("b2", [0.5, 0.99, 0.999])
def test_eps_added_at_every_step_is_the_floor(b2):
    """Published: v <- b2*v + (1-b2)*r^2 + eps, then v/(1-b2^t). Ours: v without eps, and a floor."""
    eps, published, ours = 1e-3, 0.0, 0.0
    for t in range(1, 30):
        r2 = 0.01 * t
        published = b2 * published + (1 - b2) * r2 + eps
        ours = b2 * ours + (1 - b2) * r2
        inv, floor, *_ = family.step_scalars(t, lr=1, b1=0.9, b2=b2, eps=eps, eps_out=0, rectify=False)
        assert ours * inv + floor == pytest.approx(published / (1 - b2**t), rel=1e-13)


COEFFICIENTS = [family.BELIEF, family.GRADIENT, (0.5, 0.5), (0.9, 0.2), (-0.3, 0.8), (0.0, 0.0)]


@pytest.mark.parametrize("constant", [*COEFFICIENTS, (1, 0), (0, 1), (2, 2), (0, 0)])
def test_the_sums_that_a_constant_asks_for_suffice(constant):
    """Sums that are not asked for may be anything: here nan."""
    every = dict(gg=2.0, gm=3.0, dd=5.0)
    asked = {
        name: x if name in family.sums_needed(constant, (), True) else math.nan for name, x in every.items()
    }
    assert family.residual_square(*constant, **asked) == family.residual_square(*constant, **every)
    assert family.sums_needed(constant, (), False) == ()


ASKED = {
    (-1, 0): {"gg"}, (1, 1): {"dd"}, (-1, -1): {"dd"}, (0.5, 0.5): {"dd"}, (0.9, 0.2): {"gg", "gm", "dd"},
    (0, 1): {"gg", "gm", "dd"}, (0, -1): {"gg", "gm", "dd"}, (0, 0): {"gg"},
}  # fmt: skip


@pytest.mark.parametrize("rule", ASKED)
def test_no_sum_is_asked_for_in_vain(rule, monkeypatch):
    """A sum over a layer costs a pass over its memory."""
    gram, seen = eager.gram, []
    monkeypatch.setattr(eager, "gram", lambda layers, s: seen.append({*s.sums}) or gram(layers, s))
    train(type("Own", (aida.LAdam,), {"rule": rule})(parameters(), foreach=False), [0])
    assert seen == [ASKED[rule]]


def test_no_residual_of_no_gradient():
    """alpha = beta = 0 leaves nothing, of a layer whose gradient is 0 as well."""
    assert family.residual_square(0.0, 0.0, gg=0.0, gm=math.nan, dd=math.nan) == 0


@pytest.mark.parametrize("rule", [(1, 0), (0.5, 0.25), (0, 1), (0, 0)])
@pytest.mark.parametrize("layerwise", ["pre", "post"])
@pytest.mark.parametrize("arguments", [{"foreach": False}, {"foreach": True}, {}], ids=str)
def test_a_member_with_a_constant_of_its_own(rule, layerwise, arguments):
    """Its moments are those of the rule's formula."""
    own = type("Own", (aida.LAdam,), {"rule": rule})
    shared = dict(layerwise=layerwise, **arguments)
    optimizer = own(parameters([(6, 3)], dtype=F64), **shared)
    m, v = torch.zeros(6, 3, dtype=F64), 0.0
    for t in range(3):
        train(optimizer, [t])
        (p,) = optimizer.param_groups[0]["params"]
        m = 0.9 * m + 0.1 * p.grad
        square = (rule[1] * m - rule[0] * p.grad) ** 2
        v = 0.999 * v + 0.001 * (square.mean() if layerwise == "pre" else square)
    state = optimizer.state[p]
    torch.testing.assert_close(state["exp_avg_var"], v, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("alpha", "beta"), COEFFICIENTS)
@pytest.mark.parametrize("distance", [1.0, 1e-2, 1e-4, 1e-6, 0.0])
def test_residual_square_is_the_direct_sum(alpha, beta, distance):
    generator = torch.Generator().manual_seed(0)
    g, d = (torch.randn(1000, generator=generator, dtype=F64) for _ in range(2))
    m = g + distance * d
    direct = ((beta * m - alpha * g) ** 2).sum().item()
    ours = family.residual_square(alpha, beta, *((x @ y).item() for x, y in ((g, g), (g, m), (m - g, m - g))))
    assert ours == pytest.approx(direct, rel=1e-10, abs=1e-30)


def test_the_fourth_inner_product_is_needed():
    """m within 1e-4 of g, in float32: dd is exact, while gg - 2gm + mm is wrong by all of it.

    Of every way to sum: d = ±2^-13 gives dd = 2^-14 without a rounding, and a float32 above 4096, as gg, gm
    and mm are, is a multiple of 2^-11. (g and m have few bits: neither they nor m - g are rounded.)
    """
    n = 4096
    g = 1 + torch.arange(n) / n
    m = g + 2.0**-13 * (1 - 2 * (torch.arange(n) % 2))
    exact = sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(m.tolist(), g.tolist(), strict=True))
    assert exact == Fraction(1, 2**14)
    gg, gm, mm, dd = (torch.dot(a, b).item() for a, b in ((g, g), (g, m), (m, m), (m - g, m - g)))
    assert min(gg, gm, mm) > 4096
    assert family.residual_square(1.0, 1.0, gg, gm, dd) == exact
    assert abs(gg - 2 * gm + mm - exact) >= exact
    assert family.residual_square(1.0, 0.9, 1.0, 1.1, 0.0) >= 0  # rounding may have made dd and gm disagree


@pytest.mark.parametrize("b2", [0.9, 0.999])
@pytest.mark.parametrize("decoupled", [False, True])
def test_rectified_adabelief_is_the_published_package(b2, decoupled):
    """Bitwise the same schedule: momentum while rho < 5, then rectified steps with the accumulated eps."""
    package = pytest.importorskip("adabelief_pytorch")
    steps = 20
    ours, theirs = (parameters(dtype=F64) for _ in range(2))
    shared = dict(lr=0.01, betas=(0.9, b2), eps=1e-6, weight_decay=0.1, rectify=True)
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = package.AdaBelief(theirs, weight_decouple=decoupled, print_change_log=False, **shared)
    optimizer = aida.AdaBelief(ours, decoupled_weight_decay=decoupled, **shared)
    for t in range(steps):
        train(optimizer, [t])
        train(oracle, [t])
        assert_near([p.detach() for p in ours], [p.detach() for p in theirs], 1e-13)


@pytest.mark.parametrize("b2", [0.0, 1 / 3, 0.5, 0.6, 2 / 3, 0.8, 0.9, 0.999])
def test_rectification_is_the_published_formula(b2):
    """arXiv 1908.03265 as AdaBelief has it, for every b2: below 2/3 the variance never gets tractable."""
    lr, b1, eps, seen = 0.1, 0.9, 1e-3, set()
    for t in range(1, 40):
        got = family.step_scalars(t, lr=lr, b1=b1, b2=b2, eps=eps, eps_out=eps, rectify=True)
        most = 2 / (1 - b2) - 1
        rho = most - 2 * t * b2**t / (1 - b2**t)
        seen.add(rho >= 5)
        if rho < 5:
            want = (0.0, 1.0, 0.0, lr / (1 - b1**t))
        else:
            factor = math.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
            root = math.sqrt(1 - b2**t)
            want = (1 / root**2, eps / (1 - b2), eps / root, factor * lr / (1 - b1**t))
        assert got == pytest.approx(want, rel=1e-13)
    assert seen == ({False} if b2 <= 2 / 3 else {False, True})


def test_a_rho_of_exactly_5_is_rectified():
    """As published, `>= 5`: among the floats next to the root of rho(b2) = 5, some b2 gives 5 itself."""

    def rho(b2, t):
        return 2 / (1 - b2) - 1 - 2 * t * b2**t / (1 - b2**t)

    def next_to_the_root(t):
        low, high = 0.5, 0.999
        while (middle := (low + high) / 2) not in (low, high):
            low, high = (middle, high) if rho(middle, t) < 5 else (low, middle)
        return [low + n * math.ulp(low) for n in range(-100, 100)]

    exact = [(b2, t) for t in range(6, 20) for b2 in next_to_the_root(t) if rho(b2, t) == 5]
    assert exact
    for b2, t in exact:
        inv_bias2, *_ = family.step_scalars(t, lr=1, b1=0.9, b2=b2, eps=1, eps_out=1, rectify=True)
        assert inv_bias2 == 1 / (1 - b2**t)
