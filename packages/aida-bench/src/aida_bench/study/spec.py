"""What a study's file may say: one class for each of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os.path import normpath
from pathlib import Path
from typing import Any

from aida_bench.storage.files import expand

Range = tuple[float, float]
Number = int | float
"""A whole number stays one."""


@dataclass(frozen=True)
class About:
    """[study]"""

    name: str = ""
    folder: str = ""
    """Where the runs lie, seen from where the command is started; by default runs/study-NAME."""
    extends: str = ""
    """Another study's file, seen from this one: its tables hold here too, and its runs are not run again."""
    rows: str = ""
    """Folder of committed rows, seen from the file: cells found there are not run again."""
    registered: str = ""
    """The page, seen from the file, that says what would refute each claim: the report names its commit."""
    paths: tuple[str, ...] = ()
    """Folders, seen from the file, in which import paths are looked for, beside the file's own."""
    core_hours: float | None = None
    """No cell is started that would, as it is expected, take more CPU time than this in all."""
    device: str = "cpu"
    precision: str = "32"
    threads: int = 1


@dataclass(frozen=True)
class Tuning:
    """[tuning]: every optimizer gets the same number of points, each at a fraction of the epochs."""

    points: int
    fraction: float
    seeds: tuple[int, ...]
    sobol_seed: int = 0
    widened: tuple[str, ...] = ("lr", "eps")
    """Settings whose range grows where the best point lies in its outer tenth."""
    widenings: int = 0
    """How often at most."""
    widening_points: int = 4
    """Points that every optimizer gets at each widening."""
    widening_factor: float = 10.0


@dataclass(frozen=True)
class Final:
    """[final]"""

    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Published:
    """[published]: the recipes of one of each task's presets, as they are."""

    seeds: tuple[int, ...]
    preset: str = "paper"
    phase: int | None = None
    """After which phase they are run, those of later phases after theirs; by default the last."""


@dataclass(frozen=True)
class Comparisons:
    """[comparisons]: the differences of one optimizer to each of `primary` are tested, Holm-corrected."""

    of: str
    primary: tuple[str, ...]
    target: str = ""
    """The optimizer whose worst tuned seed is the score that the time to a target is taken to."""


CLAIM_KINDS = ("within-margin", "compact", "competitive", "hypothesis", "mechanism", "at-cap")


@dataclass(frozen=True)
class Claim:
    """[claims.LABEL]: what the report gives a verdict on; study.claims says what decides each `kind`."""

    kind: str
    says: str
    of: str = ""
    against: tuple[str, ...] = ()
    """Rivals; of those in [comparisons] the interval is corrected."""
    pairs: tuple[tuple[str, ...], ...] = ()
    """within-margin: two optimizers each, the first no worse than the second."""
    margin: float = 0.1
    """within-margin: of the distance between the untrained model and the best tuned optimizer."""
    ablations: tuple[str, ...] = ()
    limit: str = ""
    """mechanism: what it would be if all its stepsizes were at the cap."""
    refuting_tasks: int = 0
    """Refuted over all tasks where one rival refutes it on so many."""
    tasks: tuple[str, ...] | None = None

    @property
    def optimizers(self) -> list[str]:
        named = (
            self.of,
            *self.against,
            *self.ablations,
            self.limit,
            *(x for pair in self.pairs for x in pair),
        )
        return list(dict.fromkeys(filter(None, named)))


@dataclass(frozen=True)
class TaskEntry:
    """[tasks.LABEL]"""

    task: str = ""
    preset: str = "study"
    model: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    limit_batches: int | None = None
    measure: str | None = None
    """What is tuned and compared, such as "loss"; by default the first in report.metrics that it has."""
    epoch_seconds: float | None = None
    """CPU seconds of one epoch, for the plan's cost until a run has ended."""


@dataclass(frozen=True)
class OptimizerEntry:
    """[optimizers.LABEL]: settings are the recipe's, then those given here, then the tuned point's."""

    optimizer: str = ""
    recipe: str = ""
    """By default the optimizer's own, where the task's preset has one."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    tune: tuple[str, ...] = ()
    space: Mapping[str, Range] = field(default_factory=dict)
    settings_from: str = ""
    """Not tuned: it takes the point chosen for this other optimizer."""
    phase: int = 1
    """Tuning and final runs of a phase end before those of the next begin."""
    seeds: tuple[int, ...] | None = None
    """Final seeds, where they are not those of [final]."""
    tasks: tuple[str, ...] | None = None
    """Labels of the tasks that it takes part in; by default all."""


@dataclass(frozen=True)
class Sweep:
    """[sweeps.LABEL]: one setting of a tuned optimizer takes other values, everything else as chosen."""

    optimizer: str
    key: str
    values: tuple[Number, ...]
    seeds: tuple[int, ...] | None = None
    phase: int = 1
    tasks: tuple[str, ...] | None = None

    def label(self, value: Number) -> str:
        """Of the optimizer that has the value."""
        short = f"{value:g}"
        return f"{self.optimizer} {self.key}={short if float(short) == value else repr(value)}"


@dataclass(frozen=True)
class Study:
    path: Path
    about: About
    tuning: Tuning
    final: Final
    published: Published | None
    comparisons: Comparisons | None
    space: Mapping[str, Range]
    tasks: Mapping[str, TaskEntry]
    optimizers: Mapping[str, OptimizerEntry]
    claims: Mapping[str, Claim] = field(default_factory=dict)
    sweeps: Mapping[str, Sweep] = field(default_factory=dict)
    """Each value's optimizer is among `optimizers` already."""
    base: Study | None = None
    """The study that this one extends; `optimizers` and `tasks` have its own already."""

    @property
    def folder(self) -> Path:
        return expand(Path(self.about.folder or f"runs/study-{self.about.name}"))

    @property
    def rows_folder(self) -> Path | None:
        return Path(normpath(self.beside(self.about.rows))) if self.about.rows else None

    @property
    def import_folders(self) -> list[Path]:
        own = [self.beside(each).resolve() for each in (".", *self.about.paths)]
        return own + (self.base.import_folders if self.base else [])

    def beside(self, name: str) -> Path:
        """A path as the file means it: seen from the file, ~ is the home folder."""
        return self.path.parent / expand(Path(name))

    def optimizers_of(self, task: str) -> dict[str, OptimizerEntry]:
        """Those that take part in a task."""
        return {k: v for k, v in self.optimizers.items() if v.tasks is None or task in v.tasks}

    @property
    def swept(self) -> set[str]:
        """Labels of the optimizers that are values of a sweep."""
        return {each.label(value) for each in self.sweeps.values() for value in each.values}

    def range_of(self, optimizer: str, key: str) -> Range:
        return self.optimizers[optimizer].space.get(key) or self.space[key]
