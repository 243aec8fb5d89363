"""Training goes on from a converted state as the source library itself goes on, in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import aida
from helpers.conversions import both_go_on, build, converted, trained
from helpers.members import parameters, train

LIMIT = 1e-12  # of what the parameters moved
PUBLISHED = Path(__file__).parents[1] / "published" / "golden"
WD = {"weight_decay": 0.1}
RECTIFIED = {"rectify": True, "betas": (0.9, 0.98)}  # intractable in the first steps, tractable later

# (module, class), what its constructor is given, and what has to be told by keyword.
CASES = [
    ("pytorch_optimizer", "AdaBelief", {}, {}),
    ("pytorch_optimizer", "AdaBelief", {**WD, "foreach": False}, {}),
    ("pytorch_optimizer", "AdaBelief", {**WD, "weight_decouple": False}, {}),
    ("pytorch_optimizer", "AdaBelief", RECTIFIED, {"degenerated_to_sgd": True, "n_sma_threshold": 5}),
    ("pytorch_optimizer", "AdaBelief", {"maximize": True, "foreach": False}, {"maximize": True}),
    ("adabelief_pytorch", "AdaBelief", {"rectify": False}, {"rectify": False}),
    (
        "adabelief_pytorch",
        "AdaBelief",
        {"rectify": False, **WD},
        {"rectify": False, "weight_decouple": True, "fixed_decay": False},
    ),
    (
        "adabelief_pytorch",
        "AdaBelief",
        {"rectify": False, "weight_decouple": False, **WD},
        {"rectify": False, "weight_decouple": False},
    ),
    ("adabelief_pytorch", "AdaBelief", RECTIFIED, {"rectify": True, "degenerated_to_sgd": True}),
    ("timm.optim.adabelief", "AdaBelief", {"rectify": False}, {}),
    ("timm.optim.adabelief", "AdaBelief", {**RECTIFIED, **WD}, {}),
    ("timm.optim.adabelief", "AdaBelief", {**WD, "decoupled_decay": False, "rectify": False}, {}),
]


def maker(module, name, **arguments):
    given = {"lr": 1e-2, "eps": 1e-6, **arguments}
    return lambda params: build(module, name, params, **given)


def source_of(module, name):
    return f"{module.partition('.')[0]}.{name}"


@pytest.mark.parametrize(("module", "name", "given", "told"), CASES, ids=str)
@pytest.mark.parametrize("backend", [{"foreach": False}, {}], ids=["eager", "auto"])
def test_adabelief_goes_on_as_in_its_library(module, name, given, told, backend):
    source, state = trained(maker(module, name, **given))
    optimizer = converted(aida.AdaBelief, source, state, backend, source=source_of(module, name), **told)
    assert both_go_on(source, optimizer)[1] <= LIMIT


@pytest.mark.parametrize(
    "given",
    [
        {"k": 2},
        {"k": 1, "weight_decay": 0.1},
        {"k": 3, "xi": 1e-8, "weight_decay": 0.1, "weight_decouple": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("foreach", [False, True])
def test_aida_goes_on_as_in_pytorch_optimizer(given, foreach):
    """Which adds eps outside the root, too, as published Aida does not: of a step, at most sqrt(eps)."""
    source, state = trained(maker("pytorch_optimizer", "Aida", lr=1e-3, eps=1e-8, foreach=foreach, **given))
    told = {"k": given["k"], "xi": given.get("xi", 1e-20)}
    optimizer = converted(aida.Aida, source, state, source="pytorch_optimizer.Aida", **told)
    assert (optimizer.param_groups[0]["K"], optimizer.param_groups[0]["xi"]) == (told["k"], told["xi"])
    apart, of_moved = both_go_on(source, optimizer)
    assert apart <= 1e-6
    assert of_moved <= 1e-4


@pytest.mark.parametrize("eps", [1e-16, 1e-8])
def test_the_libraries_own_defaults_of_eps(eps):
    for module, told in (("timm.optim.adabelief", {}), ("pytorch_optimizer", {})):
        source, state = trained(maker(module, "AdaBelief", eps=eps, rectify=False))
        optimizer = converted(aida.AdaBelief, source, state, source=source_of(module, "AdaBelief"), **told)
        assert optimizer.param_groups[0]["eps"] == eps
        assert both_go_on(source, optimizer)[1] <= LIMIT


@pytest.mark.parametrize(("module", "name", "given", "told"), [CASES[0], CASES[5], CASES[9]], ids=str)
def test_with_eps_left_in_v_it_does_not_go_on(module, name, given, told, monkeypatch):
    """Negative control: the very test above is red without the subtraction."""
    subtracted = torch.Tensor.sub_
    monkeypatch.setattr(torch.Tensor, "sub_", lambda x, *_: x)
    source, state = trained(maker(module, name, **given))
    optimizer = converted(aida.AdaBelief, source, state, source=source_of(module, name), **told)
    monkeypatch.setattr(torch.Tensor, "sub_", subtracted)
    assert both_go_on(source, optimizer)[1] > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_states_of_narrower_types_are_taken_in_float32(dtype):
    """timm keeps float32 beside parameters of 16 bits, pytorch_optimizer the parameter's type."""
    for module in ("timm.optim.adabelief", "pytorch_optimizer"):
        source, state = trained(maker(module, "AdaBelief", rectify=False), dtype)
        optimizer = converted(aida.AdaBelief, source, state, source=source_of(module, "AdaBelief"))
        inside = 1e-6 * (1 - 0.999**7) / (1 - 0.999)
        for p, q in zip(source.param_groups[0]["params"], optimizer.param_groups[0]["params"], strict=True):
            ours, theirs = optimizer.state[q], source.state[p]
            assert ours["exp_avg_var"].dtype == ours["exp_avg"].dtype == torch.float32
            wanted = (theirs["exp_avg_var"].double() - inside).clamp(min=0)
            torch.testing.assert_close(ours["exp_avg_var"].double(), wanted, rtol=1e-6, atol=0)
            torch.testing.assert_close(ours["exp_avg"], theirs["exp_avg"].float(), rtol=0, atol=0)
            assert ours["step"] == 7
    assert both_go_on(source, optimizer)[1] <= {torch.float32: 1e-4}.get(dtype, 0.2)


def test_the_optimizers_own_type_of_state_is_kept():
    source, state = trained(maker("timm.optim.adabelief", "AdaBelief", rectify=False), torch.float32)
    given = {"state_dtype": "bfloat16", "seed": 3}
    optimizer = converted(aida.AdaBelief, source, state, given)
    assert {k: optimizer.param_groups[0][k] for k in given} == given
    train(optimizer, range(7, 9))
    assert all(s["exp_avg_var"].dtype == torch.bfloat16 for s in optimizer.state.values())


def test_counters_are_each_layers_own():
    """adabelief-pytorch and timm count per layer, of which one may have begun later."""
    for module in ("timm.optim.adabelief", "adabelief_pytorch"):
        params = parameters(((4, 3), (5,), (2, 2)), torch.float64)
        source = maker(module, "AdaBelief", rectify=False)(params)
        train(source, range(3), 0.1)
        torch.manual_seed(0)
        for t in range(4):
            for p in params[:2]:
                p.grad = torch.full_like(p, 0.01 * t)
            params[2].grad = None
            source.step()
        told = {} if module.startswith("timm") else {"rectify": False}
        optimizer = converted(aida.AdaBelief, source, source.state_dict(), **told)
        assert [int(s["step"]) for s in optimizer.state.values()] == [7, 7, 3]
        assert both_go_on(source, optimizer)[1] <= LIMIT


def published_state(data, meta, until):
    """What the published code has saved after `until` steps: its loop in NumPy, on the recorded gradients."""
    hyper = meta["hyper"]
    b1, b2 = hyper.get("betas", (0.9, 0.999))
    eps, decay = hyper.get("eps", 1e-8), hyper.get("weight_decay", 0)
    state = {}
    for i in range(meta["n_tensors"]):
        m = v = np.zeros(())
        for t in range(until):
            g = data[f"grad{t}_{i}"] + (0 if hyper.get("weight_decouple") else decay) * data[f"param{t}_{i}"]
            m = b1 * m + (1 - b1) * g
            x, y = g, m
            for _ in range(hyper.get("K", 2) if meta["optimizer"] == "Aida" else 0):
                c = (x * y).sum()
                x, y = x * (c / ((x * x).sum() + 1e-20)), y * (c / ((y * y).sum() + 1e-20))
            r = g if meta["optimizer"] == "LAdam" else y - x
            v = b2 * v + (1 - b2) * (r * r if meta["optimizer"] == "Aida" else (r * r).mean()) + eps
        state[i] = {"step": until, "exp_avg": torch.tensor(m), "exp_avg_var": torch.tensor(v)}
        if until == meta["steps"]:
            np.testing.assert_allclose(v, data[f"exp_avg_var_{i}"], rtol=1e-12)
    group = {"lr": meta["lr"], "betas": (b1, b2), "eps": eps, "weight_decay": decay}
    group |= {} if meta["optimizer"] == "Aida" else {"amsgrad": False}
    return {"state": state, "param_groups": [{**group, "params": [*state]}]}


RUNS = [path for path in sorted(PUBLISHED.glob("*.npz")) if path.stem not in ("adabelief", "aida_k2_float32")]


@pytest.mark.parametrize("until", [1, 6, 12])
@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_published_runs_go_on(path, until):
    data = np.load(path)
    meta = json.loads(str(data["meta"]))
    state = published_state(data, meta, until)
    if meta["lr_drop_at"] is not None and until > meta["lr_drop_at"]:
        state["param_groups"][0]["lr"] *= 0.1
    told = {"K": meta["hyper"].get("K", 2), "xi": 1e-20}
    if meta["optimizer"] != "Aida":
        told = {"rectify": False, "source": f"published.{meta['optimizer']}"}
        if meta["hyper"].get("weight_decay"):
            told |= {"weight_decouple": meta["hyper"].get("weight_decouple", False), "fixed_decay": False}
    params = [torch.nn.Parameter(torch.tensor(data[f"param{until}_{i}"])) for i in range(meta["n_tensors"])]
    optimizer = getattr(aida, meta["optimizer"])(params)
    optimizer.load_state_dict(aida.convert_state(state, optimizer, **told))
    for t in range(until, meta["steps"]):
        if t == meta["lr_drop_at"]:
            optimizer.param_groups[0]["lr"] *= 0.1
        for i, p in enumerate(params):
            p.grad = torch.tensor(data[f"grad{t}_{i}"])
        optimizer.step()
        for i, p in enumerate(params):
            np.testing.assert_allclose(p.detach().numpy(), data[f"param{t + 1}_{i}"], rtol=0, atol=1e-12)
    if until == meta["steps"]:
        b2 = state["param_groups"][0]["betas"][1]
        inside = state["param_groups"][0]["eps"] * (1 - b2**until) / (1 - b2)
        for i, p in enumerate(params):
            v = optimizer.state[p]["exp_avg_var"].numpy() + inside
            np.testing.assert_allclose(v, data[f"exp_avg_var_{i}"], rtol=1e-12)
