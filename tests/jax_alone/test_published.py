"""The published optimizers' trajectories, replayed; tests/published/README.md tells the files' form."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import aida_jax

FILES = sorted((Path(__file__).parents[1] / "published" / "golden").glob("*.npz"))
LIMIT = {"float64": 1e-12, "float32": 1e-6}
OWN = {"Aida": aida_jax.aida, "AdaBelief": aida_jax.adabelief, "LAdam": aida_jax.ladam,
       "LAdaBelief": aida_jax.ladabelief}  # fmt: skip


def member(meta, projections=0):
    hyper = dict(meta["hyper"])
    decay, decoupled = hyper.pop("weight_decay", 0.0), hyper.pop("weight_decouple", False)
    b1, b2 = hyper.pop("betas", (0.9, 0.999))
    if "K" in hyper or projections:
        hyper["K"] = hyper.get("K", 2) + projections
    given = dict(b1=b1, b2=b2, eps=hyper.pop("eps", 1e-8), **hyper)
    drop = meta["lr_drop_at"]
    schedule = optax.piecewise_constant_schedule(meta["lr"], {} if drop is None else {drop: 0.1})
    optimizer = OWN[meta["optimizer"]](schedule, weight_decay=decay if decoupled else 0.0, **given)
    coupled = optax.chain(optax.add_decayed_weights(0.0 if decoupled else decay), optimizer)
    return coupled, given["b2"], given["eps"]


def replay(path, projections=0):
    """Yield (what, ours, published) after each step, and for the moments after the last."""
    data = np.load(path)
    meta = json.loads(str(data["meta"]))
    optimizer, b2, eps = member(meta, projections)
    indices = range(meta["n_tensors"])
    given = partial(jnp.asarray, dtype=meta["dtype"])
    params = [given(data[f"param0_{i}"]) for i in indices]
    state = optimizer.init(params)
    step = jax.jit(optimizer.update)
    for t in range(meta["steps"]):
        updates, state = step([given(data[f"grad{t}_{i}"]) for i in indices], state, params)
        params = optax.apply_updates(params, updates)
        for i, p in enumerate(params):
            yield f"param {i} after step {t}", p, data[f"param{t + 1}_{i}"]
    own = state[1][0]
    assert int(own.count) == meta["steps"]
    for i in indices:
        yield f"m {i}", own.mu[i], data[f"exp_avg_{i}"]
        within = eps * (1 - b2 ** meta["steps"]) / (1 - b2)
        yield f"v {i}", np.asarray(own.nu[i], np.float64) + within, data[f"exp_avg_var_{i}"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_trajectory_is_the_published_one(path, double):
    limit = LIMIT[json.loads(str(np.load(path)["meta"]))["dtype"]]
    for what, ours, published in replay(path):
        assert ours.dtype != np.float32 or limit == 1e-6
        off = np.abs(np.asarray(ours, np.float64) - published).max()
        assert off <= limit * np.abs(published).max(), what


@pytest.mark.parametrize("path", [p for p in FILES if "float32" in p.stem], ids=lambda path: path.stem)
def test_a_float32_trajectory_without_float64(path):
    for what, ours, published in replay(path):
        off = np.abs(np.asarray(ours, np.float64) - published).max()
        assert off <= LIMIT["float32"] * np.abs(published).max(), what


def test_there_are_trajectories():
    assert len(FILES) == 10


def test_another_number_of_projections_is_seen(double):
    """Negative control: K=3 in place of K=2 leaves the trajectory far outside the limit."""
    path = next(path for path in FILES if path.stem == "aida_k2")
    assert max(np.abs(np.asarray(o, np.float64) - p).max() for _, o, p in replay(path, 1)) > 1e-6
