"""A run of before there were two distributions (tests/data/before_workspace/run) is read and goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from aida_bench.storage.files import read_json_lines
from helpers.bench.command import invoke

OLD = Path(__file__).parents[2] / "data" / "before_workspace" / "run"
ASK = ["compare", "digits", "--optimizers", "aida", "--seeds", 1, "--limit-batches", 2, "--threads", 1, "-q"]


def scores(folder: Path) -> list[dict]:
    return [row for row in read_json_lines(folder / "rows.jsonl") if row["kind"] == "epoch"]


def test_it_is_reported(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    said = invoke("report", tmp_path / "run", "--markdown")
    assert said.exit_code == 0, said.output
    assert "aida" in said.stdout
    assert "adamw" in said.stdout


def test_it_goes_on_from_its_checkpoint(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "aida").parent.mkdir()
    shutil.copytree(OLD / "aida", old / "aida")
    before = scores(old / "aida" / "seed-0")
    for folder, more in ((old, ["--resume"]), (new, [])):
        done = invoke(*ASK, "--epochs", 2, "--out", folder, *more)
        assert done.exit_code == 0, done.output
    gone_on, anew = scores(old / "aida" / "seed-0"), scores(new / "aida" / "seed-0")
    assert gone_on[: len(before)] == before
    assert len(gone_on) == len(anew) > len(before)
    for a, b in zip(gone_on, anew, strict=True):
        losses = {key: value for key, value in a.items() if key.endswith("_loss")}
        assert len(losses) == 3
        # Another torch rounds otherwise, and after two batches accuracies are a matter of luck.
        assert losses == pytest.approx({key: b[key] for key in losses}, abs=2e-2)
    assert gone_on[1]["train_loss"] < gone_on[0]["train_loss"]
    checkpoint = torch.load(old / "aida" / "seed-0" / "checkpoint.pt", weights_only=True)
    states = checkpoint["parts"][""]["optimizer"]["state"].values()
    assert {float(state["step"]) for state in states} == {4.0}  # two from the file, two from here
