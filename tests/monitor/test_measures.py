"""Layerwise stepsizes against their formulas, written out in float64."""

import numpy as np
import pytest
import torch
from torch.nn import Parameter

import aida
from aida.monitor import layer_stepsizes, watchable
from aida.monitor.measures import percentile
from aida.monitor.schema import PER_OCTAVE
from helpers.members import CASES, MEMBERS, name, parameters, set_gradients, snapshot, train

EPS = 1e-6


def close(rows, stepsizes):
    assert [row["numel"] for row in rows] == [p.numel() for p in parameters()]
    for row, u in zip(rows, stepsizes, strict=True):
        assert row["mean"] == pytest.approx(u.mean().item(), rel=1e-12)
        assert row["std"] == pytest.approx(u.std(correction=0).item(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_the_familys_stepsizes(case):
    cls, kwargs = case
    kwargs = {**kwargs, "eps": EPS}
    params, steps = parameters(dtype=torch.float64), 7
    optimizer = cls(params, **kwargs)
    train(optimizer, range(steps))
    b2 = kwargs.get("betas", (0.9, 0.999))[1]
    assert not kwargs.get("rectify") or b2 == 0.9  # then rho < 5 at step 5 and above at step 7
    expected = []
    for p in params:
        v = optimizer.state[p]["exp_avg_var"]
        u = 1 / ((v / (1 - b2**steps) + EPS / (1 - b2)).sqrt() + outside(cls, kwargs, b2, steps))
        expected.append(u.mean() if kwargs.get("layerwise") == "post" else u)
    before = snapshot(optimizer)
    close(layer_stepsizes(optimizer), expected)
    assert all(torch.equal(a, b) for a, b in zip(snapshot(optimizer), before, strict=True))


def outside(cls, kwargs, b2, steps):
    """AdaBelief's second eps, which the published rectified step does not divide by the bias correction."""
    eps = EPS if cls is aida.AdaBelief else 0.0
    return eps / (1 - b2**steps) ** 0.5 if kwargs.get("rectify") else eps


def test_a_rectified_step_that_is_not_yet_tractable_has_stepsize_one():
    optimizer = aida.Aida(parameters(), rectify=True)
    train(optimizer, range(3))
    assert all((row["mean"], row["std"]) == (1.0, 0.0) for row in layer_stepsizes(optimizer))


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_torchs_adam(cls, amsgrad):
    params = parameters(dtype=torch.float64)
    optimizer = cls(params, eps=EPS, betas=(0.9, 0.99), amsgrad=amsgrad)
    train(optimizer, range(3))
    train(optimizer, range(3, 5), scale=0.01)  # so that the largest v is not the last one
    v = [optimizer.state[p]["max_exp_avg_sq" if amsgrad else "exp_avg_sq"] for p in params]
    close(layer_stepsizes(optimizer), [1 / ((x / (1 - 0.99**5)).sqrt() + EPS) for x in v])


def test_an_optimizer_without_stepsizes_gives_no_rows():
    optimizer = torch.optim.SGD(parameters(), momentum=0.9)
    train(optimizer, [0])
    with pytest.warns(UserWarning, match="no rows: the stepsizes of SGD are not known"):
        assert layer_stepsizes(optimizer) == []
    assert not watchable(optimizer)


@pytest.mark.parametrize("cls", MEMBERS)
def test_the_cap_is_reached_where_gradients_vanish(cls):
    optimizer = cls(parameters())
    train(optimizer, range(3), scale=1e-12)
    for row in layer_stepsizes(optimizer):
        assert row["mean"] == pytest.approx(316.2278, rel=1e-5)
        assert row["std"] < 1e-6


def test_names_come_from_the_model_or_the_optimizer_or_are_numbers():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    named, bare = aida.Aida(model.named_parameters()), aida.Aida(model.parameters())
    names = ["0.weight", "0.bias", "1.weight", "1.bias"]
    for optimizer in (named, bare):
        train(optimizer, [0])
    assert [r["parameter"] for r in layer_stepsizes(named)] == names
    assert [r["parameter"] for r in layer_stepsizes(bare, model)] == names
    assert [r["parameter"] for r in layer_stepsizes(bare)] == ["0", "1", "2", "3"]
    only_head = aida.Aida([{"params": model[1].parameters()}, {"params": model[0].parameters()}])
    train(only_head, [0])
    assert [r["parameter"] for r in layer_stepsizes(only_head, model)] == [*names[2:], *names[:2]]


def test_parameters_that_never_stepped_give_no_rows():
    used, unused = parameters([(3,), (2,)])
    optimizer = aida.Aida([unused, used, Parameter(torch.empty(0))])
    assert layer_stepsizes(optimizer) == []
    set_gradients([used], 0)
    optimizer.step()
    assert [(r["parameter"], r["numel"]) for r in layer_stepsizes(optimizer)] == [("1", 3)]


@pytest.mark.parametrize("cls", MEMBERS)
def test_half_precision_and_complex_layers_are_measured(cls):
    z = Parameter(torch.randn(4, dtype=torch.complex64))
    half = Parameter(torch.randn(4, dtype=torch.bfloat16))
    optimizer = cls([z, half])
    train(optimizer, range(2))
    rows = layer_stepsizes(optimizer)
    assert [row["numel"] for row in rows] == [4, 4]
    assert all(0 < row["mean"] < 317 for row in rows)


def test_the_lowest_percentile_lies_at_the_first_bin_that_has_something():
    assert percentile(np.array([0, 0, 3, 1]), 0.0, 0) == pytest.approx(2 ** (2 / PER_OCTAVE))
