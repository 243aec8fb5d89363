"""Moments in 8 bits, as the trial stores them: what a block loses, and that a run goes on exactly."""

import copy
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from aida_bench.baselines import build_optimizer


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[3] / "reproduce" / "int8_moments.py"
    spec = importlib.util.spec_from_file_location("int8_moments", path)
    module = sys.modules["int8_moments"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["int8_moments"]


def moments(n):
    """m and v whose blocks differ by 40 orders of magnitude, and the elements within a block by some."""
    generator = torch.Generator().manual_seed(n)
    m = torch.randn(n, generator=generator).pow(3)
    m *= torch.logspace(-20, 20, -(-n // 256)).repeat_interleave(256)[:n].to(m.dtype)
    return m, m.abs()


def at_random(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.rand(shape, generator=generator)


@pytest.mark.parametrize("n", [1, 255, 256, 257, 5000])
@pytest.mark.parametrize("stochastic", [False, True])
def test_the_error_is_bounded_in_each_block(script, n, stochastic):
    """Half a level to the nearest, a level at random: of the largest magnitude, and for v of its root."""
    m, v = moments(n)
    for x, root, levels in ((m, False, 127), (v, True, 255)):
        kept = script.kept(x, root, at_random() if stochastic else None)
        assert kept.shape == x.shape
        for exact, read in zip(x.double().split(256), kept.double().split(256), strict=True):
            if root:
                exact, read = exact.sqrt(), read.sqrt()
            bound = exact.abs().max() / levels * (1 if stochastic else 0.5)
            assert (read - exact).abs().max() <= bound * (1 + 1e-4)
            assert read.abs().max() == pytest.approx(exact.abs().max().item(), rel=1e-6)


def test_two_bytes_an_element_and_two_scales_a_block(script):
    x = torch.ones(40, 64)
    stored = [*script.encode(x, False), *script.encode(x, True)]
    assert [each.dtype for each in stored] == [torch.int8, torch.float32, torch.uint8, torch.float32]
    assert sum(each.nbytes for each in stored) == x.numel() * (2 + 8 / 256)


@pytest.mark.parametrize("random", [None, at_random()])
def test_a_block_of_zeros_stays_zero_beside_others(script, random):
    x = torch.cat([torch.zeros(256), torch.full((256,), 1e-30), torch.zeros(3)])
    for root in (False, True):
        assert torch.equal(script.kept(x, root, random), x)


def test_what_was_read_is_stored_as_it_is(script):
    """So a checkpoint of codes and scales, or of what they stand for, are the same state."""
    m, v = moments(5000)
    tiny = torch.linspace(0, 1e-39, 300)  # below the smallest normal number
    for x, root in ((m, False), (v, True), (tiny, False), (tiny, True)):
        for random in (None, at_random()):
            codes, scales = script.encode(x, root, random)
            again, same_scales = script.encode(script.decode(codes, scales), root)
            assert torch.equal(again, codes)
            assert torch.equal(same_scales, scales)


@pytest.mark.parametrize("root", [False, True])
def test_at_random_the_mean_is_exact(script, root):
    """The mean of 4000 blocks, in standard errors of its two levels; to the nearest it is far off."""
    count, levels = 4000, 255 if root else 127
    # Of v most roots are small, where levels of a root and of v differ most.
    x = torch.rand(256, generator=torch.Generator().manual_seed(1)).pow(8 if root else 1)
    x[0] = 1.0
    blocks = x.repeat(count)
    means = {
        name: script.kept(blocks, root, random).view(count, 256).double().mean(0)
        for name, random in (("nearest", None), ("random", at_random(2)))
    }
    width = 1 / levels if not root else (2 * x.double().sqrt() * levels + 1) / levels**2
    error = width / 2 / count**0.5  # at most: half of the distance of two levels is their deviation
    off = {name: ((mean - x.double()) / error).abs() for name, mean in means.items()}
    assert off["random"].max() < 5
    assert off["nearest"].median() > 5


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_a_run_that_goes_on_has_the_same_moments(script, rounding):
    """An optimizer of the study's, by import path: after each step all moments are what 8 bits hold."""

    def steps(model, optimizer, first, last):
        for step in range(first, last):
            torch.manual_seed(100 + step)
            optimizer.zero_grad()
            model(torch.randn(8, 30)).square().mean().backward()
            optimizer.step()

    torch.manual_seed(0)
    whole = nn.Linear(30, 20)
    optimizer = build_optimizer("int8_moments:int8_aida", whole, rounding=rounding, lr=1e-2, eps=1e-16)
    steps(whole, optimizer, 0, 15)
    torch.manual_seed(0)
    resumed = copy.deepcopy(whole)
    other = build_optimizer("int8_moments:int8_aida", resumed, rounding=rounding, lr=1.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for model, each in ((whole, optimizer), (resumed, other)):
        steps(model, each, 15, 30)
    for p, q in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)
        for name in ("exp_avg", "exp_avg_var"):
            moment, root = optimizer.state[p][name], name == "exp_avg_var"
            assert torch.equal(moment, other.state[q][name])
            assert torch.equal(moment, script.kept(moment, root))
            assert moment.any()
    # 3 of 30 steps are measured, 2 layers each.
    found = optimizer.param_groups[0]["errors"]
    assert other.param_groups[0]["errors"] == found
    count, of_m, of_v, _, elements, lost = found
    assert count == 6
    assert 0 < of_m / count < 0.1
    assert 0 < of_v / count < 0.1
    assert 0 <= lost < elements <= 3 * 620


def test_errors_are_to_what_float32_would_hold(script, monkeypatch):
    """Against moments that are averaged here in float64, from the same gradients and residuals."""
    monkeypatch.setattr(script, "EVERY", 1)
    p = nn.Parameter(torch.randn(700, generator=torch.Generator().manual_seed(0)))
    optimizer = script.int8_aida([p], rounding="nearest", K=0, eps=1e-16, betas=(0.8, 0.95))
    exact_m, exact_v = torch.zeros(2, 700, dtype=torch.float64)
    stored = torch.zeros(700, dtype=torch.float64)
    before = [0.0] * 6
    for step in range(20):
        p.grad = torch.randn(700, generator=torch.Generator().manual_seed(step + 1)).pow(3)
        g = p.grad.double()
        optimizer.step()
        exact_m = 0.8 * exact_m + 0.2 * g
        exact_v = 0.95 * exact_v + 0.05 * (0.8 * stored + 0.2 * g - g).square()
        stored, v = (optimizer.state[p][name].double() for name in ("exp_avg", "exp_avg_var"))
        roots = v.sqrt(), exact_v.sqrt()
        by_hand = [
            1,
            (stored - exact_m).norm() / (exact_m - g).norm(),
            (roots[0] - roots[1]).norm() / roots[1].norm(),
            roots[0].sum() / roots[1].sum() - 1,
            700,
            ((v == 0) & (exact_v > 0)).sum(),
        ]
        found = list(optimizer.param_groups[0]["errors"])
        new = [x - y for x, y in zip(found, before, strict=True)]
        assert new == pytest.approx([float(x) for x in by_hand], rel=1e-3, abs=1e-6)
        before = found
    assert before[-1] > 0


def test_errors_by_hand(script):
    """m is off by 0.5 beside an exact m - g of length 5; v is 0 where float32 has 1."""
    m, v, g = torch.tensor([3.0, 0.5]), torch.tensor([4.0, 0.0]), torch.tensor([0.0, 4.0])
    off_m, off_v = torch.tensor([0.0, 0.5]), torch.tensor([0.0, -1.0])
    by_hand = [1, 0.1, 1 / 5**0.5, 2 / 3 - 1, 2, 1]
    assert script.errors(g, m, v, off_m, off_v) == pytest.approx(by_hand)


def test_tables_by_hand(script):
    """float32 has its losses, another form the differences to the same seed's."""
    errors = {"m_error": 0.01, "v_error": 0.02, "v_bias": -0.03, "v_lost": 0.5}
    rows = [
        {"task": "gpt", "form": form, "seed": seed, "train_loss": 3 + loss,
         "validation_loss": 4 + loss + seed, "capped": 0.25, **measured}
        for form, loss, measured in (("float32", 0.0, {}), ("int8-nearest", 0.125, errors))
        for seed in (1, 0)
    ]  # fmt: skip
    lines = script.tables(rows)
    assert "| gpt | float32 | 3.0000, 3.0000 | 4.0000, 5.0000 | 25 % |" in lines
    assert "| gpt | int8-nearest | +0.1250, +0.1250 | +0.1250, +0.1250 | 25 % |" in lines
    assert "| gpt | int8-nearest | 1.00 % | 2.00 % | -3.00 % | 50.00 % |" in lines
    assert len(lines) == 2 + 2 + 1 + 2 + 1
    assert lines[4] == ""
