"""Runs of VGG11 on CIFAR-10 beside the figure of arXiv 2203.13273.

    python reproduce/published_stepsizes.py RUNS OUT

RUNS: what `aida compare cifar10 --model vgg11 ...` wrote. OUT has published.csv (optimizer, layer, epoch,
mean, std; digitised) and receives comparison.csv (every cell with its error), table.md and figure.png.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev

NAMES = {"aida": "Aida, K=2", "aida-k1": "Aida, K=1", "adabelief": "AdaBelief", "adamplus": "AdamPlus"}
EPOCHS = (1, 2, 5, 10)
MEAN_LIMIT = {"aida": 2.0, "aida-k1": 2.0, "adabelief": 6.0, "adamplus": 6.0}
STD_LIMIT, STD_FROM = 20.0, 5.0  # percent, of published deviations above 5
CAP = 316.23
Key = tuple[str, int, int]


@dataclass(frozen=True)
class Cell:
    """A layer's mean and standard deviation at the end of an epoch, measured and published."""

    optimizer: str
    layer: int
    epoch: int
    mean: float
    std: float
    published_mean: float | None
    published_std: float | None

    @property
    def mean_error(self) -> float | None:
        """In percent of the published value, as is std_error."""
        return error(self.mean, self.published_mean)

    @property
    def std_error(self) -> float | None:
        return error(self.std, self.published_std)

    @property
    def mean_missed(self) -> bool:
        return self.mean_error is not None and abs(self.mean_error) > MEAN_LIMIT[self.optimizer]

    @property
    def std_counts(self) -> bool:
        return self.published_std is not None and self.published_std > STD_FROM

    @property
    def std_missed(self) -> bool:
        return self.std_counts and self.std_error is not None and abs(self.std_error) > STD_LIMIT


def error(found: float, expected: float | None) -> float | None:
    return None if expected is None else 100 * (found / expected - 1)


def read_published(path: Path) -> dict[Key, tuple[float | None, float | None]]:
    with path.open(newline="") as file:
        return {
            (row["optimizer"], int(row["layer"]), int(row["epoch"])): (
                number(row["mean"]),
                number(row["std"]),
            )
            for row in csv.DictReader(file)
        }


def number(text: str) -> float | None:
    return float(text) if text else None


def read_runs(folder: Path, published: dict[Key, tuple[float | None, float | None]]) -> list[Cell]:
    cells = []
    for name in NAMES:
        for path in sorted(folder.glob(f"{name}/seed-*/rows.jsonl")):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            for row in rows:
                key = name, row.get("layer"), row["epoch"]
                if row["kind"] == "stepsize" and key in published:
                    cells.append(Cell(*key, row["mean"], row["std"], *published[key]))
    return cells


def tables(cells: list[Cell]) -> str:
    """One table an optimizer: mean / deviation by layer and epoch with their errors, a miss in bold."""
    parts = []
    for name, title in NAMES.items():
        own = {(c.layer, c.epoch): c for c in cells if c.optimizer == name}
        if not own:
            continue
        epochs = [e for e in EPOCHS if any(epoch == e for _, epoch in own)]
        lines = [f"### {title}", "", "| layer | " + " | ".join(f"epoch {e}" for e in epochs) + " |",
                 "|---" * (len(epochs) + 1) + "|"]  # fmt: skip
        for layer in sorted({layer for layer, _ in own}):
            lines += [f"| {layer} | " + " | ".join(cell_text(own.get((layer, e))) for e in epochs) + " |"]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, verdict(cells), spreads(cells)]) + "\n"


def cell_text(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    mean, std = percent(cell.mean_error, cell.mean_missed), percent(cell.std_error, cell.std_missed)
    if not cell.std_counts:
        std = "" if cell.std_error is None else f"({std})"
    return (
        f"{cell.mean:.2f} / {cell.std:.2f}: {mean}, {std}"
        if std
        else f"{cell.mean:.2f} / {cell.std:.2f}: {mean}"
    )


def percent(x: float | None, missed: bool) -> str:
    if x is None:
        return "not legible"
    return f"**{x:+.1f} %**" if missed else f"{x:+.1f} %"


def verdict(cells: Iterable[Cell]) -> str:
    lines = ["### Cells within the limits", "", "| optimizer | means | deviations above 5 |", "|---|---|---|"]
    for name, title in NAMES.items():
        own = [c for c in cells if c.optimizer == name and c.epoch in EPOCHS]
        means = [c.mean_missed for c in own if c.mean_error is not None]
        stds = [c.std_missed for c in own if c.std_counts]
        if own:
            close = f"{means.count(False)} of {len(means)} within {MEAN_LIMIT[name]:.0f} %"
            lines.append(
                f"| {title} | {close} | {stds.count(False)} of {len(stds)} within {STD_LIMIT:.0f} % |"
            )
    return "\n".join(lines)


def spreads(cells: Iterable[Cell]) -> str:
    """At each epoch: the mean over layers of the deviation within one, and the deviation of layers' means."""
    found = [c for c in cells if c.published_mean is not None and c.published_std is not None]
    lines = ["### Spread, measured (published)", "", "Within: the layers' standard deviations, averaged; "
             "between: the standard deviation of their means. Of the layers that are legible.",
             "", "| optimizer | epoch | within | between |", "|---|---|---|---|"]  # fmt: skip
    for name, title in NAMES.items():
        for epoch in EPOCHS:
            own = [c for c in found if (c.optimizer, c.epoch) == (name, epoch)]
            if len(own) > 1:
                lines.append(
                    f"| {title} | {epoch} | {fmean(c.std for c in own):.2f} "
                    f"({fmean(c.published_std or 0 for c in own):.2f}) | {pstdev([c.mean for c in own]):.2f} "
                    f"({pstdev([c.published_mean or 0 for c in own]):.2f}) |"
                )
    return "\n".join(lines)


def figure(cells: list[Cell], published: dict[Key, tuple[float | None, float | None]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [
        name
        for name in ("adamplus", "adabelief", "aida-k1", "aida")
        if any(c.optimizer == name for c in cells)
    ]
    made, axes = plt.subplots(
        2, len(shown), figsize=(3.2 * len(shown), 6), sharex=True, sharey="row", squeeze=False
    )
    colours = plt.get_cmap("viridis")
    for column, name in enumerate(shown):
        for layer in range(2, 12):
            colour = colours((layer - 2) / 9)
            own = sorted((c.epoch, c.mean, c.std) for c in cells if (c.optimizer, c.layer) == (name, layer))
            theirs = sorted((e, *both) for (n, l, e), both in published.items() if (n, l) == (name, layer))
            for row in (0, 1):
                axis = axes[row][column]
                axis.plot([x[0] for x in theirs], [x[1 + row] for x in theirs], "--", color=colour, lw=1)
                axis.plot([x[0] for x in own], [x[1 + row] for x in own], "-o", color=colour, ms=2.5, lw=1.2,
                          label=f"layer {layer}" if row == 0 else None)  # fmt: skip
        axes[0][column].axhline(CAP, color="0.6", lw=0.8)
        axes[0][column].set_title(NAMES[name])
        axes[1][column].set_xlabel("epoch")
    axes[0][0].set_ylabel("mean of u in a layer (no unit)")
    axes[1][0].set_ylabel("standard deviation of u")
    axes[0][-1].legend(fontsize=6, loc="lower right")
    made.suptitle(
        "Adaptive stepsizes of VGG11 on CIFAR-10: measured (solid) and published (dashed); grey: the cap"
    )
    made.tight_layout()
    made.savefig(path, dpi=110)


def main(runs: Path, out: Path) -> None:
    published = read_published(out / "published.csv")
    cells = read_runs(runs, published)
    if not cells:
        sys.exit(
            f"{runs} has no stepsize rows of {', '.join(NAMES)}: give the folder that aida compare wrote"
        )
    with (out / "comparison.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["optimizer", "layer", "epoch", "mean", "std", "published_mean", "published_std",
                         "mean_error_percent", "std_error_percent"])  # fmt: skip
        for c in cells:
            values = (c.mean, c.std, c.published_mean, c.published_std, c.mean_error, c.std_error)
            writer.writerow(
                [c.optimizer, c.layer, c.epoch, *("" if x is None else f"{x:.3f}" for x in values)]
            )
    (out / "table.md").write_text(tables(cells))
    figure(cells, published, out / "figure.png")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
