"""Studies small enough for a test."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[3]

TINY = """
[study]
name = "tiny"
[tuning]
points = 3
fraction = 0.5
seeds = [100]
widenings = 1
widening_points = 2
[final]
seeds = [0, 1]
[space]
lr = [1e-3, 1e-1]
eps = [1e-12, 1e-6]
[tasks.digits]
preset = "small"
model = "mlp"
epochs = 2
batch_size = 16
limit_batches = 2
[optimizers.aida]
tune = ["lr", "eps"]
[optimizers.sgd]
tune = ["lr"]
[optimizers.like-aida]
optimizer = "adabelief"
settings_from = "aida"
phase = 2
"""


def write(folder: Path, text: str = TINY, **changes: str) -> Path:
    """A study's file, with `changes` from one text to another."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "study.toml"
    path.write_text(text)
    return path
