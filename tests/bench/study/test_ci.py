"""A whole study, with an optimizer and a task from outside the package, from its first run to its report."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys

import pytest

from helpers.bench.studies import ROOT

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(1800)]


def test_a_study_from_its_first_run_to_its_report(tmp_path):
    (tmp_path / "studies").mkdir()
    shutil.copy(ROOT / "studies/ci.toml", tmp_path / "studies")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")

    def aida(*words: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "aida_bench", "study", *words],
            cwd=tmp_path, env={**os.environ, "COLUMNS": "100"}, capture_output=True, text=True,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    aida("run", "studies/ci.toml", "--workers", "1", "--quiet")
    assert "left 0.00" in aida("status", "studies/ci.toml")
    aida("report", "studies/ci.toml", "--to", "out")
    page = (tmp_path / "out/README.md").read_text()
    assert "Partial" not in page
    assert "incomplete" not in page
    assert {each.name for each in (tmp_path / "out").glob("*.svg")} == {
        "differences.svg", "profile.svg", "settings.svg", "sweeps.svg", "tuning.svg",
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "out/differences.csv").read_text().splitlines()))
    assert {(row["task"], row["rival"]) for row in rows if row["primary"] == "True"} == {
        ("digits", "adamw"), ("digits", "lion"), ("spirals", "adamw"), ("spirals", "lion"),
    }  # fmt: skip
    assert all(row["n"] == "5" for row in rows if row["primary"] == "True")
