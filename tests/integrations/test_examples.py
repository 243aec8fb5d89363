"""Every example of a peer is short and learns its digits; where it writes records, they are there."""

import json
import os
import runpy
from pathlib import Path

import pytest

from helpers.peers import needed

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "integrations").glob("with_*.py"))
PEERS = {"lightning": "pytorch_lightning"}
# Where records are not in stepsizes.jsonl.
ELSEWHERE = {"composer", "keras", "mlflow", "trackio"}


def peer(path):
    return path.stem.removeprefix("with_")


@pytest.mark.parametrize("path", EXAMPLES, ids=peer)
def test_an_example_is_under_forty_lines(path):
    assert len(path.read_text().splitlines()) < 40


@pytest.mark.parametrize("path", EXAMPLES, ids=peer)
def test_an_example_learns_the_digits(path, tmp_path, monkeypatch, capsys):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    needed(PEERS.get(peer(path), peer(path)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runpy.run_path(str(path), run_name="__main__")
    said = capsys.readouterr().out
    assert float(said.rpartition("accuracy ")[2]) > 0.8, said  # of ten classes
    if peer(path) not in ELSEWHERE:
        rows = [json.loads(line) for line in Path("stepsizes.jsonl").read_text().splitlines()]
        assert {row["step"] for row in rows} >= {1, 20, 40, 60, 80, 100, 120}
    elif peer(path) == "composer":
        assert "stepsizes [" in said.replace("array(", "")


def test_mlflow_has_the_curves(tmp_path, monkeypatch):
    """The example's sink, and what mlflow's own client then finds."""
    mlflow = needed("mlflow")
    from aida.monitor import scalars

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    with mlflow.start_run() as run:
        row = {"kind": "spread", "step": 3, "layers": 1, "mean": 2.0}
        mlflow.log_metrics(scalars([row]), step=3)
    (found,) = mlflow.MlflowClient().get_metric_history(run.info.run_id, "stepsize_spread/mean")
    assert (found.value, found.step) == (2.0, 3)
