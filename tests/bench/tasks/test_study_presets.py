"""Presets for studies: a third of the steps has the whole schedule."""

from __future__ import annotations

import pytest

from aida_bench.recipes import PRESETS
from aida_bench.tasks import create_task
from helpers.bench.stand_ins import STAND_INS

STUDIES = [name for name, presets in PRESETS.items() if "study" in presets]


def test_tasks_that_have_one():
    assert {"mnist", "lm", "gpt", "cifar10", "wgan-gp"} <= set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_a_third_of_the_steps_has_the_whole_schedule(name, tmp_path, monkeypatch):
    STAND_INS[name](monkeypatch, tmp_path)
    preset = PRESETS[name]["study"]
    assert preset.epochs % 3 == 0
    assert 6 <= preset.epochs <= 10
    task = create_task(name, model=preset.models[0], batch_size=20, **preset.options)
    whole, third = ([task.lr_factor(step, 120, epochs) for step in range(120 * epochs)]
                    for epochs in (preset.epochs, preset.epochs // 3))  # fmt: skip
    assert third == pytest.approx(whole[1::3], abs=0.03)
    levels = [len({round(factor, 6) for factor in factors}) for factors in (third, whole)]
    assert min(levels) > 1 or levels == [1, 1]
