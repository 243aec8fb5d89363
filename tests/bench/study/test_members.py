"""The ablations of the claims' study: identities between members, step by step."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from aida import AdaBelief, Aida

STUDIES = Path(__file__).parents[3] / "studies"
sys.path.append(str(STUDIES))
import claims_members as members  # noqa: E402

SHAPES = [(3, 4), (5,), (1,), (2, 3, 2)]


def train(build, steps: int = 12, foreach: bool | None = False, dtype=torch.float64):
    """Parameters after each step of the same gradients."""
    draws = torch.Generator().manual_seed(3)
    params = [torch.nn.Parameter(torch.randn(shape, generator=draws, dtype=dtype)) for shape in SHAPES]
    optimizer = build(params) if foreach is None else build(params, foreach=foreach)
    path = []
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=draws, dtype=dtype) + 0.3
        optimizer.step()
        path.append([p.detach().clone() for p in params])
    return path


def close(one, other, rtol: float = 1e-12) -> bool:
    return all(
        torch.allclose(a, b, rtol=rtol, atol=0)
        for here, there in zip(one, other, strict=True)
        for a, b in zip(here, there, strict=True)
    )


@pytest.mark.parametrize("c", [0.01, 0.3, 4.0])
def test_a_constant_damping_is_another_eps_and_lr(c):
    damped = train(lambda p, **k: members.constant_damping(c)(p, lr=0.02, eps=1e-4, **k))
    scaled = dict(lr=0.02 / c**0.5, eps=1e-4 / c)
    assert close(damped, train(lambda p, **k: Aida(p, K=0, **scaled, **k)))
    # AdaBelief's second eps, outside the root, is what is left between the two.
    assert not close(damped, train(lambda p, **k: AdaBelief(p, **scaled, **k)))
    small = dict(lr=0.02 / c**0.5, eps=1e-12 / c)
    damped = train(lambda p, **k: members.constant_damping(c)(p, lr=0.02, eps=1e-12, **k))
    assert close(damped, train(lambda p, **k: AdaBelief(p, **small, **k)), 1e-6)
    assert not close(damped, train(lambda p, **k: Aida(p, K=0, lr=0.02, eps=1e-12, **k)), 1e-3)


SUMS = [np.array([2.0, 0.5, 3.0]), np.array([1.0, -0.2, 2.5]), np.array([1.5, 0.3, 2.2])]
DAMPING = [gm**2 / (gg * mm) for gg, gm, mm in zip(*SUMS, strict=True)]


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("K", [2, 4])
def test_each_rule_gives_the_damping_that_its_name_says(array, K):
    sums = [array(each) for each in SUMS]
    damping = [d ** (K / 2) for d in DAMPING]
    gg, gm, mm = (each.sum() for each in SUMS)
    expected = {
        members.MeanDamping: [sum(damping) / 3] * 3,
        members.RolledDamping: [damping[1], damping[2], damping[0]],
        members.WholeModelDamping: [(gm**2 / (gg * mm)) ** (K / 2)] * 3,
    }
    for member, wanted in expected.items():
        for coefficient in member.rule(*sums, K, 1e-30):
            shown = np.broadcast_to(np.asarray(coefficient), 3)
            assert shown == pytest.approx(wanted, rel=1e-12), member.__name__


@pytest.mark.parametrize("K", [1, 3])
def test_odd_K_is_a_damping_of_the_normalised_difference(K):
    """r = cos^(K-1)(theta)*(gm/mm*m - gm/gg*g), layer by layer."""
    gg, gm, mm = SUMS
    alpha, beta = Aida.rule(gg, gm, mm, K, 1e-30)
    damping = (gm**2 / (gg * mm)) ** ((K - 1) / 2)
    assert alpha == pytest.approx(damping * gm / gg, rel=1e-12)
    assert beta == pytest.approx(damping * gm / mm, rel=1e-12)


@pytest.mark.parametrize("member", [members.MeanDamping, members.RolledDamping, members.WholeModelDamping])
@pytest.mark.parametrize("foreach", [False, True])
def test_a_model_of_one_layer_cannot_tell_them_apart(member, foreach, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SHAPES", [(3, 4)])
    assert close(
        train(lambda p, **k: member(p, **k), foreach=foreach), train(lambda p, **k: Aida(p, **k)), 1e-9
    )


@pytest.mark.parametrize("member", [members.MeanDamping, members.RolledDamping, members.WholeModelDamping])
def test_several_layers_tell_them_apart_and_every_backend_gives_the_same(member):
    eager = train(lambda p, **k: member(p, **k))
    assert not close(eager, train(lambda p, **k: Aida(p, **k)), 1e-6)
    assert close(eager, train(lambda p, **k: member(p, **k), foreach=True), 1e-9)
    single = dict(foreach=None, dtype=torch.float32)
    fused = train(lambda p: member(p, fused=True), **single)
    assert close([[p.double() for p in each] for each in fused], eager, 1e-3)


@pytest.mark.parametrize("decoupled", [False, True])
def test_capped_momentum_is_aida_at_the_cap(decoupled):
    """With eps so large that v does not count, every stepsize is the cap."""
    settings = dict(lr=0.5, betas=(0.8, 0.99), eps=1e9, weight_decay=0.1, decoupled_weight_decay=decoupled)
    capped = train(lambda p: members.CappedMomentum(p, K=2, xi=1e-20, **settings), foreach=None)
    assert close(capped, train(lambda p, **k: Aida(p, **settings, **k)), 1e-9)
    other = {**settings, "decoupled_weight_decay": not decoupled}
    assert not close(capped, train(lambda p, **k: Aida(p, **other, **k)), 1e-6)


def test_capped_momentum_is_momentum_sgd_with_a_bias_correction():
    settings = dict(lr=0.5, betas=(0.8, 0.99), eps=1e9, weight_decay=0.1)
    capped = train(lambda p: members.CappedMomentum(p, **settings), foreach=None)

    def scheduled(params):
        effective = 0.5 * (0.01 / 1e9) ** 0.5 * (1 - 0.8)
        sgd = torch.optim.SGD(params, lr=effective, momentum=0.8, weight_decay=0.1)
        steps = iter(range(1, 99))

        def correct(optimizer, *_):
            optimizer.param_groups[0]["lr"] = effective / (1 - 0.8 ** next(steps))

        sgd.register_step_pre_hook(correct)
        return sgd

    assert close(capped, train(scheduled, foreach=None), 1e-9)


def test_capped_momentum_goes_on_from_its_state():
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = members.CappedMomentum([p], lr=0.1, eps=1.0)
    p.grad = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    optimizer.step()
    q = torch.nn.Parameter(p.detach().clone())
    again = members.CappedMomentum([q], lr=0.1, eps=1.0)
    again.load_state_dict(deepcopy(optimizer.state_dict()))
    q.grad = p.grad.clone()
    optimizer.step()
    again.step()
    assert torch.equal(p, q)
