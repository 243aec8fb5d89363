"""A real task in bfloat16: rounding at random trains as float32 does, rounding to the nearest does not."""

import importlib.util
import sys
from pathlib import Path

import pytest

from aida_bench.tasks import create_task


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[3] / "reproduce" / "low_precision.py"
    spec = importlib.util.spec_from_file_location("low_precision", path)
    module = sys.modules["low_precision"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits(script):
    """At this lr a step is below half of a bfloat16's last place for most parameters.

    Measured, over three seeds and torch's instruction sets: at random within 0.9 %, to the nearest 25 to 26 %
    above, and 0.1 % between instruction sets.
    """
    task = create_task("digits", model="cnn", batch_size=64)
    losses = {
        precision.name: script.train(task, "aida", precision, seed=0, epochs=10, lr=1e-4)["loss"]
        for precision in script.PRECISIONS
        if precision.name != "bfloat16 moments, nearest"
    }
    full = losses.pop("float32")
    nearest = losses.pop("bfloat16 moments and parameters, nearest")
    assert nearest > 1.12 * full
    for name, loss in losses.items():
        assert loss == pytest.approx(full, rel=0.05), name
