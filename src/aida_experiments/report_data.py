"""Folders of runs as a report sees them: measures, results, and groups of results that can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

from aida_experiments.errors import UserError, warn
from aida_experiments.files import Row, read_json, read_json_lines
from aida_experiments.runs import Run, read_done

CAPPED = ("aida", "laida", "adabelief", "ladabelief", "adamplus", "ladam")
"""Members of the family, with eps inside the root; a suffix as in "aida-k1" names a variant."""

SPLITS = ("train", "validation", "test")

PLACE = ("device", "devices", "strategy", "threads", "workers")
"""What of a configuration says where a run ran: no reason to keep two runs apart."""


@dataclass(frozen=True)
class Measure:
    """What a number is called and how it is shown: `scale` turns 0.97 into 97 %."""

    name: str
    label: str
    higher: bool = False
    scale: float = 1.0
    form: str = ".4g"

    def show(self, value: float) -> str:
        return format(self.scale * value, self.form)

    def signed(self, difference: float) -> str:
        """With its sign; what rounds to zero has a plus, not a minus."""
        shown = format(self.scale * difference, "+" + self.form)
        return shown.replace("-", "+") if float(shown) == 0 else shown

    def better(self, difference: float) -> bool:
        return difference > 0 if self.higher else difference < 0


# In the order in which they rank optimizers.
MEASURES = {
    measure.name: measure
    for measure in (
        Measure("accuracy", "accuracy, %", higher=True, scale=100, form=".2f"),
        Measure("bleu", "BLEU", higher=True, form=".2f"),
        Measure("fid", "FID", form=".2f"),
        Measure("frechet_mnist", "Fréchet distance in the features of a classifier of MNIST", form=".2f"),
        Measure(
            "frechet_cifar10", "Fréchet distance in the features of a classifier of CIFAR-10", form=".2f"
        ),
        Measure("frechet", "Fréchet distance in the given features"),
        Measure("perplexity", "perplexity", form=".2f"),
        Measure("token_accuracy", "token accuracy, %", higher=True, scale=100, form=".2f"),
        Measure("top5_accuracy", "top-5 accuracy, %", higher=True, scale=100, form=".2f"),
        Measure("wasserstein", "Wasserstein distance as the critic estimates it", form=".3f"),
        Measure("loss", "loss", form=".4f"),
    )
}


def measure_named(name: str) -> Measure:
    """A measure by its name; an unknown one is shown by its name, and less of it counts as better."""
    return MEASURES.get(name) or Measure(name, name.replace("_", " "))


def key_measure(key: str) -> Measure:
    """The measure of a key of a row: "validation_accuracy" is accuracy on the validation set."""
    split, _, name = key.partition("_")
    return measure_named(name if split in SPLITS else key)


def key_label(key: str) -> str:
    """ "validation_accuracy" is "validation accuracy, %"."""
    split = key.partition("_")[0]
    return f"{split} {key_measure(key).label}" if split in SPLITS else key_measure(key).label


@dataclass(frozen=True)
class Result:
    """One run: its configuration, its status ("finished", "diverged" or None) and its rows."""

    config: Row
    status: str | None
    rows: list[Row]
    timings: list[Row] = field(default_factory=list)
    versions: Row = field(default_factory=dict)
    folder: Path = Path()
    label: str = ""

    @property
    def optimizer(self) -> str:
        return self.label or self.config["optimizer"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def diverged(self) -> bool:
        return self.status == "diverged"

    @cached_property
    def epochs(self) -> list[Row]:
        """The rows of the whole epochs, in order."""
        return [row for row in self.rows if row["kind"] == "epoch"]

    @cached_property
    def stepsizes(self) -> list[Row]:
        return [row for row in self.rows if row["kind"] == "stepsize"]

    @property
    def settings(self) -> dict[str, Any]:
        return flatten(self.config.get("settings", {}))

    @property
    def cap(self) -> float | None:
        """The largest adaptive stepsize, sqrt((1 - b2) / eps), 316.23 by default; None if eps sets none."""
        if self.config["optimizer"].split("-")[0] not in CAPPED:
            return None
        settings = self.config.get("settings", {})
        return sqrt((1 - settings.get("betas", (0.9, 0.999))[1]) / settings.get("eps", 1e-8))

    def series(self, key: str) -> dict[int, float]:
        """A measure by epoch, where it was taken."""
        return {row["epoch"]: row[key] for row in self.epochs if key in row}


def flatten(settings: Row, prefix: str = "") -> Row:
    """Nested settings with joined names: {"critic": {"lr": 1}} is {"critic.lr": 1}."""
    flat = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


@dataclass(frozen=True)
class Group:
    """Results of one task under the same conditions, which differ in optimizer, its settings and seed."""

    title: str
    results: Sequence[Result]

    @cached_property
    def optimizers(self) -> list[str]:
        """Labels in the order in which they first occur."""
        return list(dict.fromkeys(result.optimizer for result in self.results))

    def of(self, optimizer: str) -> list[Result]:
        return [result for result in self.results if result.optimizer == optimizer]

    @cached_property
    def keys(self) -> list[str]:
        """Everything that was measured by epoch, the training loss first."""
        names = dict.fromkeys(key for result in self.results for row in result.epochs for key in row)
        return sorted((key for key in names if key not in ("kind", "epoch", "lr")), key=_key_order)

    @cached_property
    def measure(self) -> Measure:
        """What ranks the optimizers: the first of MEASURES that was taken on the split that chooses."""
        chosen = [key for key in self.keys if key.startswith("validation_")] or self.keys
        names = [key_measure(key).name for key in chosen]
        return next((MEASURES[name] for name in MEASURES if name in names), MEASURES["loss"])

    @property
    def choosing_key(self) -> str:
        """The measure that chooses a run's best epoch."""
        key = f"validation_{self.measure.name}"
        return key if key in self.keys or not self.keys else self._any_key

    @property
    def scored_key(self) -> str:
        """The measure that is compared: of the test set, or of the validation set if there is no other."""
        key = f"test_{self.measure.name}"
        return key if key in self.keys else self.choosing_key

    @property
    def _any_key(self) -> str:
        return next((key for key in self.keys if key_measure(key).name == self.measure.name), "train_loss")

    def best(self, result: Result) -> Row | None:
        """The first epoch of the best choosing measure; None before there is one."""
        rows = [row for row in result.epochs if self.choosing_key in row and self.scored_key in row]
        sign = 1 if self.measure.higher else -1
        return max(rows, key=lambda row: sign * row[self.choosing_key], default=None)

    def last(self, result: Result) -> Row | None:
        return next((row for row in reversed(result.epochs) if self.scored_key in row), None)


def _key_order(key: str) -> tuple[int, int]:
    split, name = key.partition("_")[0], key_measure(key).name
    measure = list(MEASURES).index(name) if name in MEASURES else len(MEASURES)
    return SPLITS.index(split) if split in SPLITS else len(SPLITS), measure


def read_result(run: Run) -> Result:
    return read_folder(run.folder)


def read_folder(folder: Path) -> Result:
    """One run's folder, whatever there is of it yet. Raises UserError for a file that is damaged."""
    versions, config, status = folder / "versions.json", read_json(folder / "config.json"), read_done(folder)
    try:
        found = read_json(versions, "nothing else depends on it") if versions.exists() else {}
    except UserError as error:
        warn(str(error))
        found = {}
    rows, timings = (read_json_lines(folder / f"{name}.jsonl") for name in ("rows", "timings"))
    return Result(config, status, rows, timings, found, folder)


def read_groups(folder: Path) -> list[Group]:
    """Every run below a folder, grouped by what is comparable. Raises UserError where there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name one with runs in it, such as runs/digits-1.")
    found = [read_folder(path.parent) for path in sorted(folder.rglob("config.json"))]
    results = [result for result in found if {"task", "optimizer", "seed"} <= result.config.keys()]
    if not results:
        raise UserError(f"no runs below {folder}: `aida compare TASK --out {folder}` makes some.")
    return group(results)


def group(results: Iterable[Result]) -> list[Group]:
    together: dict[str, list[Result]] = {}
    for result in results:
        together.setdefault(json.dumps(conditions(result), sort_keys=True), []).append(result)
    titles = _titles([conditions(results[0]) for results in together.values()])
    return [
        Group(title, list(_labelled(_without_copies(results))))
        for title, results in zip(titles, together.values(), strict=True)
    ]


def conditions(result: Result) -> Row:
    """What all runs of a group share."""
    own = ("optimizer", "settings", "seed", *PLACE)
    return {key: value for key, value in result.config.items() if key not in own}


def _titles(shared: Sequence[Row]) -> list[str]:
    """Task and model, and what else tells a group from the others of the same name."""
    names = [" · ".join(str(each[key]) for key in ("task", "model") if each.get(key)) for each in shared]
    titles = []
    for name, mine in zip(names, shared, strict=True):
        others = [each for other, each in zip(names, shared, strict=True) if other == name]
        differing = [key for key in mine if any(each.get(key) != mine[key] for each in others)]
        titles.append(" · ".join([name, *(f"{key.replace('_', ' ')} {mine[key]}" for key in differing)]))
    return titles


def _without_copies(results: Iterable[Result]) -> list[Result]:
    """Of runs with one configuration, in several folders, the one that got furthest."""
    kept: dict[str, Result] = {}
    for result in results:
        own = {key: value for key, value in result.config.items() if key not in PLACE}
        other = kept.setdefault(key := json.dumps(own, sort_keys=True), result)
        if (result.status is not None, len(result.epochs)) > (other.status is not None, len(other.epochs)):
            kept[key] = result
    return list(kept.values())


def _labelled(results: Sequence[Result]) -> Iterator[Result]:
    """Names an optimizer that ran with several settings by those that differ, such as "aida lr=0.003"."""
    for result in results:
        name = result.config["optimizer"]
        others = [other.settings for other in results if other.config["optimizer"] == name]
        names = dict.fromkeys(key for settings in others for key in settings)
        differing = [key for key in names if len({json.dumps(each.get(key)) for each in others}) > 1]
        shown = " ".join(f"{key}={show(result.settings.get(key))}" for key in differing)
        yield replace(result, label=f"{name} {shown}".strip())


def show(value: Any) -> str:
    """A setting as a person writes it: 1e-08 is 1e-8."""
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    if isinstance(value, (list, tuple)):
        return ", ".join(map(show, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)
