"""Rows of both sides are the same, column by column; and the torch side's tools read them."""

from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import aida_jax
from aida import monitor as of_torch_side
from aida.monitor import plots
from aida_jax import monitor
from helpers.bench.command import invoke
from helpers.jax_twins import FORMS, TWINS, steps, twins


def both(name, own, **more):
    rng = np.random.default_rng(0)
    shapes = {"a": (40, 30), "b": (5,), "c": ()}
    draw = lambda: {k: rng.standard_normal(s) for k, s in shapes.items()}  # noqa: E731
    params, gradients = draw(), [draw() for _ in range(4)]
    one, other, of_torch = twins(name, params, 1e-2, (0.9, 0.999), **own, **more)
    ours = {k: jnp.asarray(x) for k, x in params.items()}
    ours, state = steps(one, other, of_torch, ours, other.init(ours), jax.jit(other.update), gradients)
    return one, ours, state, gradients[-1]


@pytest.mark.parametrize(("name", "own"), FORMS)
@pytest.mark.parametrize("rectify", [False, True])
def test_rows_of_both_sides_are_the_same(name, own, rectify):
    one, params, state, grads = both(name, own, rectify=rectify)
    member = TWINS[name](1e-2, 0.9, 0.999, rectify=rectify, **own)
    ours = aida_jax.layer_stepsizes(state, params, grads, optimizer=member)
    theirs = of_torch_side.layer_stepsizes(one)
    for row, of_torch in zip(ours, theirs, strict=True):
        assert [*row] == [*of_torch]
        for key, x in of_torch.items():
            if isinstance(x, float):
                np.testing.assert_allclose(row[key], x, rtol=1e-9, atol=1e-11, err_msg=key)
            elif key == "histogram":
                assert (row[key]["low"], row[key]["per_octave"]) == (x["low"], x["per_octave"])
                assert np.abs(np.subtract(row[key]["counts"], x["counts"])).sum() <= 4
            else:
                assert row[key] == x, key


@pytest.mark.parametrize(
    "name", ["family", *(f"monitor.{x}" for x in ("schema", "measures", "files", "sinks"))]
)
def test_what_both_sides_share_is_the_same_bytes(name):
    of_torch, ours = (Path(import_module(f"{package}.{name}").__file__) for package in ("aida", "aida_jax"))
    assert of_torch.read_bytes() == ours.read_bytes()


def test_the_torch_sides_plots_and_command_read_these_rows(tmp_path):
    _, params, state, grads = both("Aida", {})
    sink, run = monitor.JSONL(tmp_path / "rows.jsonl"), monitor.new_run("aida")
    member = aida_jax.aida(1e-2, 0.9, 0.999)
    rows = []
    for step in (1, 2):
        found = aida_jax.layer_stepsizes(state, params, grads, optimizer=member)
        rows += monitor.record([{**row, "step": step} for row in found], run=run)
    sink.write(rows)
    assert plots.stepsizes(rows) is not None
    done = invoke("stepsizes", tmp_path / "rows.jsonl", "--out", tmp_path / "figures")
    assert done.exit_code == 0, done.output
