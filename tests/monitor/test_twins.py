"""Each measure against its plain float64 twin, over whole layers at once."""

import numpy as np
import pytest
import torch
from torch.nn import Parameter

import aida
from aida.monitor import histogram_edges, layer_stepsizes
from aida.monitor.measures import cosine, percentile, residual, spread, update_ratio
from helpers.members import OWN, name, train

PIECE = 2**15
SHAPES = ((PIECE + 7,), (3, 5, 2, 4), (2 * PIECE,), (1,))


def layers(kind):
    """Parameters whose elements lie in memory as `kind` says; of several pieces, or small."""
    generator = torch.Generator().manual_seed(5)
    made = [torch.randn(shape, generator=generator) for shape in SHAPES]
    if kind == "channels_last":
        made[1] = made[1].to(memory_format=torch.channels_last)
    if kind == "transposed":
        made = [x.T if x.ndim == 2 else x.movedim(0, -1) for x in made]
    if kind == "bfloat16":
        made = [x.to(torch.bfloat16) for x in made]
    return [Parameter(x) for x in made]


def twin(optimizer, p, settings):
    """Stepsizes and directions as the formulas of the family say, on whole layers in float64."""
    state, group = optimizer.state[p], optimizer.param_groups[0]
    (b1, b2), eps, t = group["betas"], group["eps"], float(state["step"])
    v, m, g = state["exp_avg_var"].double(), state["exp_avg"].double(), p.grad.double()
    u = 1 / (
        (v / (1 - b2**t) + eps / (1 - b2)).sqrt() + (eps if isinstance(optimizer, aida.AdaBelief) else 0)
    )
    u = (u.mean() if settings.get("layerwise") == "post" else u).expand(p.shape)
    alpha = beta = torch.tensor(1.0, dtype=torch.float64)
    rule = type(optimizer).rule
    if isinstance(rule, tuple):
        alpha, beta = rule
    a, b = alpha * g, beta * m
    for _ in range(group.get("K", 0)):
        c = (a * b).sum()
        a, b = c / ((a * a).sum() + group["xi"]) * a, c / ((b * b).sum() + group["xi"]) * b
    update = group["lr"] / (1 - b1**t) * u * m
    return u, g, m, b - a, update


@pytest.mark.parametrize("case", [(c, own) for c, all_own in OWN.items() for own in all_own], ids=name)
@pytest.mark.parametrize("kind", ["plain", "channels_last", "transposed", "bfloat16"])
def test_every_measure_of_a_layer(case, kind):
    cls, settings = case
    params = layers(kind)
    optimizer = cls(params, **settings, betas=(0.8, 0.99), eps=1e-6)
    train(optimizer, range(3))
    for p, row in zip(params, layer_stepsizes(optimizer), strict=True):
        u, g, m, r, update = twin(optimizer, p, settings)
        flat = u.reshape(-1).numpy()
        close = {"rel": 1e-6, "abs": 1e-9}
        assert row["mean"] == pytest.approx(flat.mean(), **close)
        assert row["std"] == pytest.approx(flat.std(), rel=1e-5, abs=1e-5 * flat.mean())
        assert (row["min"], row["max"]) == pytest.approx((flat.min(), flat.max()), **close)
        for q in (5, 25, 50, 75, 95):
            inverted = np.percentile(flat, q, method="inverted_cdf")
            assert row[f"p{q:02d}"] == pytest.approx(inverted, rel=0.0111)
        assert row["capped"] == pytest.approx((flat >= 0.99 * row["cap"]).mean(), abs=2 / flat.size)
        assert row["cos"] == pytest.approx(((g * m).sum() / g.norm() / m.norm()).item(), **close)
        norms = [x.norm().item() for x in (g, m, p.double())]
        assert [row["g_norm"], row["m_norm"], row["p_norm"]] == pytest.approx(norms, **close)
        assert row["residual"] == pytest.approx((r.norm() / m.norm()).item(), rel=1e-5, abs=1e-6)
        assert row["update_ratio"] == pytest.approx((update.norm() / p.double().norm()).item(), rel=2e-6)
        edges = np.array(histogram_edges(row["histogram"]))
        counts, _ = np.histogram(flat, edges)
        assert sum(row["histogram"]["counts"]) == row["numel"] == flat.size
        # An element within float32's rounding of an edge may be counted on its other side.
        assert np.abs(counts - row["histogram"]["counts"]).sum() <= max(2, 1e-3 * flat.size)
        assert row["histogram"]["counts"][0]
        assert row["histogram"]["counts"][-1]


def test_close_stepsizes_keep_their_deviation():
    """Where float32 squares would leave nothing of it."""
    params = [Parameter(torch.zeros(3 * PIECE))]
    optimizer = aida.AdamPlus(params, eps=1e-8)
    params[0].grad = torch.full((3 * PIECE,), 1e-7)
    params[0].grad[::2] = 3e-5
    optimizer.step()
    (row,) = layer_stepsizes(optimizer)
    u = 1 / (params[0].grad.double() ** 2 + 1e-5).sqrt()
    assert row["std"] == pytest.approx(u.std(correction=0).item(), rel=0.05)
    assert 0 < row["std"] < 1e-4 * row["mean"]


@pytest.mark.parametrize("q", [0, 1, 5, 50, 95, 99.9, 100])
def test_percentile(q):
    values = np.random.default_rng(1).lognormal(3.0, 1.0, 100_000)
    low, counts = -2, np.histogram(np.log2(values), 64 * 14, (-2, 12))[0]
    exact = np.percentile(values, q)
    assert percentile(counts, low, q) == pytest.approx(exact, rel=0.0111)
    assert np.isnan(percentile(np.zeros(3), 0.0, q))
    assert np.isnan(percentile(np.zeros(0), 0.0, q))


def test_cosine_residual_and_ratio():
    g, m = np.array([3.0, 4.0, 0.0]), np.array([1.0, 1.0, 1.0])
    gg, gm, mm, dd = g @ g, g @ m, m @ m, (m - g) @ (m - g)
    assert cosine(gg, gm, mm) == pytest.approx(7 / 5 / 3**0.5)
    assert cosine(0.0, 0.0, mm) is None
    assert cosine(1e-200, 1e-200, 1e-200) == pytest.approx(1.0)
    assert cosine(1.0, 1.0 + 1e-15, 1.0) == 1.0
    assert residual(1.0, 1.0, gg, gm, mm, dd) == pytest.approx((dd / mm) ** 0.5)
    assert residual(-1.0, 0.0, gg, gm, mm, dd) == pytest.approx((gg / mm) ** 0.5)
    assert residual(2.0, -1.0, gg, gm, mm, dd) == pytest.approx(np.linalg.norm(-m - 2 * g) / mm**0.5)
    assert residual(1.0, 1.0, gg, 0.0, 0.0, gg) is None
    assert (update_ratio(4.0, 16.0), update_ratio(4.0, 0.0)) == (0.5, None)


def test_spread():
    rows = [{"mean": x} for x in (1.0, 2.0, 6.0)]
    deviation = np.std([1, 2, 6])
    assert spread(rows) == pytest.approx(
        {"kind": "spread", "layers": 3, "mean": 3.0, "std": deviation, "min": 1.0, "max": 6.0,
         "ratio": deviation / 3}
    )  # fmt: skip


def test_a_layer_that_is_not_a_number_says_so():
    params = [Parameter(torch.ones(4)), Parameter(torch.ones(4))]
    optimizer = aida.AdaBelief(params)
    params[0].grad, params[1].grad = torch.full((4,), torch.nan), torch.ones(4)
    optimizer.step()
    sick, well = layer_stepsizes(optimizer)
    assert np.isnan([sick["mean"], sick["std"], sick["g_norm"], sick["cos"]]).all()
    assert np.isfinite([well["mean"], well["cos"]]).all()


def test_a_gradient_that_is_gone_leaves_the_rest():
    params = [Parameter(torch.ones(4))]
    optimizer = aida.Aida(params)
    train(optimizer, range(2))
    (before,) = layer_stepsizes(optimizer)
    optimizer.zero_grad()
    (after,) = layer_stepsizes(optimizer)
    gone = {key for key in before if after[key] is None}
    assert gone == {"cos", "g_norm", "residual"}
    assert {k: x for k, x in before.items() if k not in gone} == {
        k: x for k, x in after.items() if k not in gone
    }
