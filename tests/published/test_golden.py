"""The published optimizers, replayed step by step; README.md beside this file tells the files' form."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import aida
from helpers.backends import every_backend

FILES = sorted((Path(__file__).parent / "golden").glob("*.npz"))
LIMIT = {"float64": 1e-12, "float32": 1e-6}


def replay(path, arguments):
    """Yield (what, ours, published) after each step, and for the moments after the last."""
    data = np.load(path)
    meta = json.loads(str(data["meta"]))
    hyper = dict(meta["hyper"])
    hyper["decoupled_weight_decay"] = hyper.pop("weight_decouple", False)
    hyper["betas"] = tuple(hyper.get("betas", (0.9, 0.999)))
    hyper.setdefault("eps", 1e-8)
    dtype = getattr(torch, meta["dtype"])
    indices = range(meta["n_tensors"])
    params = [torch.nn.Parameter(torch.tensor(data[f"param0_{i}"]).to(dtype)) for i in indices]
    optimizer = getattr(aida, meta["optimizer"])(params, lr=meta["lr"], **hyper, **arguments)
    for t in range(meta["steps"]):
        if t == meta["lr_drop_at"]:
            optimizer.param_groups[0]["lr"] *= 0.1
        for i, p in enumerate(params):
            p.grad = torch.tensor(data[f"grad{t}_{i}"]).to(dtype)
        optimizer.step()
        for i, p in enumerate(params):
            yield f"param {i} after step {t}", p, data[f"param{t + 1}_{i}"], meta["dtype"]
    b2 = hyper["betas"][1]
    eps_within = hyper["eps"] * (1 - b2 ** meta["steps"]) / (1 - b2)
    for i, p in enumerate(params):
        state = optimizer.state[p]
        yield f"m {i}", state["exp_avg"], data[f"exp_avg_{i}"], meta["dtype"]
        yield f"v {i}", state["exp_avg_var"].double() + eps_within, data[f"exp_avg_var_{i}"], meta["dtype"]


@every_backend
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_trajectory_is_the_published_one(path, backend):
    backend.load()
    for what, ours, published, dtype in replay(path, backend.arguments):
        worst = np.abs(ours.detach().double().numpy() - published).max()
        assert worst <= LIMIT[dtype] * np.abs(published).max(), what


def test_there_are_trajectories():
    assert len(FILES) == 10


def test_another_number_of_projections_is_seen(monkeypatch):
    """Negative control: K=3 in place of K=2 leaves the trajectory far outside the limit."""
    path = next(path for path in FILES if path.stem == "aida_k2")
    original = aida.Aida.own["K"]
    monkeypatch.setitem(aida.Aida.own, "K", original + 1)
    worst = max(np.abs(o.detach().double().numpy() - q).max() for _, o, q, _ in replay(path, {}))
    assert worst > 1e-6
