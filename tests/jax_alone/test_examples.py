"""The examples run, and train."""

import importlib.util
import json
from pathlib import Path

import pytest

from aida_jax import monitor

EXAMPLES = Path(__file__).parents[2] / "examples" / "jax"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits_are_told_apart():
    assert example("digits").train(epochs=5) > 0.9


def test_a_gpt_trains_and_writes_its_stepsizes(tmp_path):
    pytest.importorskip("flax", minversion="0.11")
    gpt = example("gpt")
    assert gpt.train(steps=25, every=20, sink=monitor.JSONL(tmp_path / "rows.jsonl")) < 4.6  # log 128 is 4.85
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == {1, 20}
    assert "block0/qkv/kernel" in {row.get("parameter") for row in rows}
