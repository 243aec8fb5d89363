"""One row for each layer, where layers are slices or several tensors."""

import numpy as np
import pytest
import torch

import aida
from aida.monitor import StepsizeMonitor, layer_stepsizes
from helpers.layered import (
    CALLED,
    LAYERS,
    NAMES,
    SHARED,
    coefficients,
    gradients,
    groups_of,
    mixed,
    parameters,
)
from helpers.members import OWN


def flat(tensors, parts):
    return np.concatenate([tensors[name][at].detach().double().reshape(-1).numpy() for name, at in parts])


@pytest.mark.parametrize("layers", LAYERS, ids=["module", "mixed"])
@pytest.mark.parametrize(("cls", "own"), [(c, own) for c, settings in OWN.items() for own in settings])
@pytest.mark.parametrize("last", [2, 3], ids=["all gradients", "some gradients"])
def test_a_row_is_of_a_whole_layer(cls, own, layers, last):
    """Its sums are those that the step takes: of the tensors that have a gradient; u and p are of all."""
    params = parameters()
    optimizer = cls(groups_of(params), layers=layers, **SHARED, **own)
    for t in range(1, last + 1):
        before = {name: p.detach().clone() for name, p in zip(NAMES, params, strict=True)}
        grads = gradients(params, t)
        optimizer.step()
    rows = {row["parameter"]: row for row in layer_stepsizes(optimizer)}
    assert [row["layer"] for row in rows.values()] == list(range(1, len(rows) + 1))
    after = dict(zip(NAMES, params, strict=True))
    state = {name: optimizer.state[p] for name, p in after.items()}
    m = {name: of_p["exp_avg"] for name, of_p in state.items()}
    b2, eps = SHARED["betas"][1], SHARED["eps"]
    decay = {name: 0.1 if p.dim() > 1 else 0.0 for name, p in before.items()}
    decayed = {n: None if g is None else g + decay[n] * before[n] for n, g in grads.items()}
    assert {*rows} == {*CALLED[layers]}
    for name, layer in zip(CALLED[layers], LAYERS[layers], strict=True):
        row = rows[name]
        in_step = [part for part in layer if grads[part[0]] is not None] or layer
        assert row["numel"] == sum(before[name][at].numel() for name, at in layer)
        assert row["p_norm"] == pytest.approx(np.linalg.norm(flat(after, layer)))
        assert row["m_norm"] == pytest.approx(np.linalg.norm(flat(m, in_step)))
        if any(grads[name] is not None for name, _ in layer):
            g_, m_ = flat(decayed, in_step), flat(m, in_step)
            assert row["g_norm"] == pytest.approx(np.linalg.norm(g_), rel=1e-9)
            assert row["cos"] == pytest.approx(g_ @ m_ / np.linalg.norm(g_) / np.linalg.norm(m_), rel=1e-9)
            alpha, beta = coefficients(cls, own, g_ @ g_, g_ @ m_, m_ @ m_)
            residual = np.linalg.norm(beta * m_ - alpha * g_) / np.linalg.norm(m_)
            assert row["residual"] == pytest.approx(residual, rel=1e-6, abs=1e-9)
            update = flat(before, in_step) - flat(after, in_step)
            ratio = np.linalg.norm(update) / row["p_norm"]
            assert row["update_ratio"] == pytest.approx(ratio, rel=1e-6)
        if optimizer.param_groups[0].get("layerwise") is None:
            v = {n: x["exp_avg_var"] / (1 - b2 ** x["step"].item()) for n, x in state.items()}
            u = 1 / (np.sqrt(flat(v, layer) + eps / (1 - b2)) + (eps if cls.eps_outside else 0))
            assert [row["mean"], row["std"], row["min"], row["max"]] == pytest.approx(
                [u.mean(), u.std(), u.min(), u.max()], rel=1e-9, abs=1e-9
            )
            assert sum(row["histogram"]["counts"]) == row["numel"]


def test_a_monitor_selects_layers_by_their_names():
    params = parameters(torch.float32)
    optimizer = aida.Aida([*zip(NAMES, params, strict=True)], layers=mixed)
    with StepsizeMonitor(
        optimizer, every=1, select=lambda name, p: name.endswith(("[4:8]", "vectors"))
    ) as monitor:
        gradients(params, 1)
        optimizer.step()
    rows = [row for row in monitor.rows if row["kind"] == "stepsize"]
    assert [(row["layer"], row["parameter"], row["numel"]) for row in rows] == [
        (1, "attention.qkv.weight[4:8]", 20),
        (2, "vectors", 22),
    ]


def test_tensors_with_different_caps_have_no_row_together():
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = aida.Aida([{"params": [p]}, {"params": [q], "eps": 1e-3}], layers=lambda name, p: "both")
    for x in (p, q):
        x.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"^layer both cannot be measured: its tensors are in groups"):
        layer_stepsizes(optimizer)
