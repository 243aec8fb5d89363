"""Studies small enough for a test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

TUNED = 'tune = ["lr"]'
SGD = 'optimizer = "sgd"\ntune = ["lr"]'


def compared(
    tasks: Iterable[str], optimizers: Mapping[str, str], *, points: int = 1, epochs: int = 2,
    seeds: str = "[0, 1, 2, 3, 4]", primary: Iterable[str] = ("adamw", "adabelief", "momentum"),
    target: str | None = None,
) -> str:  # fmt: skip
    """A study of aida beside its `primary` rivals, on digits by loss; optimizers: TOML lines by label."""
    chosen = [f'target = "{target}"'] if target else []
    tables = {
        "tuning": [f"points = {points}", "fraction = 0.5", "seeds = [100]"],
        "final": [f"seeds = {seeds}"],
        "comparisons": ['of = "aida"', f"primary = {[*primary]}", *chosen],
        "space": ["lr = [1e-3, 1e-1]", "eps = [1e-12, 1e-6]"],
    }
    one = ['task = "digits"', 'preset = "small"', 'measure = "loss"', f"epochs = {epochs}"]
    tables |= {f"tasks.{task}": one for task in tasks}
    tables |= {f"optimizers.{label}": [lines] for label, lines in optimizers.items()}
    return "".join(f"[{name}]\n" + "\n".join(lines) + "\n" for name, lines in tables.items())


def write(folder: Path, text: str = TINY, **changes: str) -> Path:
    """A study's file, with `changes` from one text to another."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "study.toml"
    path.write_text(text)
    return path
