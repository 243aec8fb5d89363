"""Which runs a study has, stage by stage; what a later stage is depends on what an earlier one found.

On each task, phase after phase: tune the phase's optimizers; widen ranges where a best point lies at an edge,
for every optimizer tuned so far; train all with what was chosen on the final seeds. In the end, train with
published settings. A stage is decided when the one before is complete, from its rows alone, so that neither
the order in which runs end nor a kill changes what is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, zip_longest
from math import inf
from typing import Any

from aida_bench.errors import UserError
from aida_bench.execution.job import resolve_device
from aida_bench.recipes import Preset
from aida_bench.storage.files import Row
from aida_bench.storage.run import IDENTITY
from aida_bench.study import space
from aida_bench.study.records import Found, plain, scoring_of
from aida_bench.study.spec import About, OptimizerEntry, Study
from aida_bench.tasks import higher_of, presets_of

UNTRAINED = "untrained"


@dataclass(frozen=True)
class Cell:
    """One run; `key`: its folder within the study's; `stage`: "tune", "final", "published", "untrained"."""

    key: str
    task: str
    optimizer: str
    stage: str
    point: int | None
    config: Row


class TaskPlan:
    """The stages of one task, given what has been found; afterwards, what they came to.

    `points`: of each tuned optimizer, declared and added; `ranges`: of each axis that was widened;
    `added`: of each widening the ranges before it and the sides that it moved.
    """

    def __init__(self, study: Study, task: str, found: Found) -> None:
        self.study, self.task, self.found = study, task, found
        self.ranges: space.Ranges = {}
        self.points: dict[str, list[dict[str, float]]] = {}
        self.added: list[tuple[space.Ranges, list[space.Side]]] = []
        self.scoring = scoring_of(study, task, found)

    def stages(self) -> Iterator[list[Cell]]:
        """Each to be complete before the next is asked for; where it is not, the next is a guess."""
        members = self.optimizers
        rest = [self._cell(UNTRAINED, UNTRAINED, None, {"lr": 0.0}, self.study.final.seeds[0])]
        phases = sorted({each.phase for each in members.values()})
        published_after = self._published_after(phases)
        for phase in phases:
            new = [label for label, each in members.items() if each.phase == phase and each.tune]
            for label in new:
                self.points[label] = space.first_points(self.study, label)
                for number in range(len(self.added)):
                    self._widen(label, number)
            yield self._tuning(new) + rest
            rest = []
            while len(self.added) < self.study.tuning.widenings and (sides := self.sides()):
                self.added.append((self.ranges, sides))
                self.ranges = space.widen(self.study, self.ranges, sides)
                for label in self.points:
                    self._widen(label, len(self.added) - 1)
                yield self._tuning(self.points)
            so_far = [label for label, each in members.items() if each.phase <= phase]
            yield self._finals(so_far)
            if phase >= published_after:
                yield self._published(so_far)

    def _published_after(self, phases: list[int]) -> int:
        wanted = self.study.published.phase if self.study.published else None
        return max((phase for phase in phases if wanted is None or phase <= wanted), default=phases[0])

    def all_cells(self) -> list[Cell]:
        """Every cell as far as it can be told: what is chosen later is guessed, and nothing more widened."""
        return list({cell.key: cell for cell in chain.from_iterable(self.stages())}.values())

    def _widen(self, label: str, number: int) -> None:
        self.points[label] += space.wider_points(self.study, label, number + 1, *self.added[number])

    @property
    def optimizers(self) -> dict[str, OptimizerEntry]:
        """Those that take part in this task."""
        return self.study.optimizers_of(self.task)

    def complete(self, stage: Iterable[Cell]) -> bool:
        return all(cell.key in self.found for cell in stage)

    def costs(self, label: str) -> list[float | None]:
        """Of each point of an optimizer, less is better: the mean over tuning seeds, inf where one diverged,
        None where one has not ended."""
        return [self._cost(label, i) for i in range(len(self.points[label]))]

    def _cost(self, label: str, point: int) -> float | None:
        records = [self.found.get(self._key(label, "tune", point, s)) for s in self.study.tuning.seeds]
        costs = [self.scoring.cost(r, self.scoring.tuned_by) for r in records if r and self.scoring]
        return sum(costs) / len(costs) if len(costs) == len(records) else None

    def chosen(self, label: str) -> int:
        """The point with the lowest cost, of equals the first; the first while none has ended."""
        costs = [inf if cost is None else cost for cost in self.costs(label)]
        return costs.index(min(costs))

    def edges(self, label: str) -> list[space.Side]:
        """Where the chosen point lies in the outer tenth of a range."""
        return space.edges(self.study, label, self.points[label][self.chosen(label)], self.ranges)

    def sides(self) -> list[space.Side]:
        """All sides to widen; none while a point has not ended, or for an optimizer that always diverged."""
        costs = {label: self.costs(label) for label in self.points}
        if any(None in mine for mine in costs.values()):
            return []
        reached = [label for label, mine in costs.items() if any(cost != inf for cost in mine)]
        found = (side for label in reached for side in self.edges(label))
        return [s for s in sorted(set(found)) if s[0][0] in self.study.tuning.widened]

    def settings(self, label: str) -> dict[str, Any]:
        """What an optimizer's final runs are trained with."""
        source = self.source(label)
        return self._settings(label, self.points[source][self.chosen(source)] if source else {})

    def source(self, label: str) -> str:
        """The optimizer whose point it is trained with; empty for one that is not tuned."""
        spec = self.study.optimizers[label]
        return spec.settings_from or (label if spec.tune else "")

    def _settings(self, label: str, point: Mapping[str, float]) -> dict[str, Any]:
        """The recipe's, then the file's, then the point's; of another's point, the file's own stay."""
        spec, recipes = self.study.optimizers[label], self.preset.recipes
        recipe = spec.recipe or spec.optimizer
        own = dict(recipes[recipe].settings) if recipe in recipes else {}
        if spec.settings_from:
            return {**own, **point, **spec.settings}
        return {**own, **spec.settings, **point}

    @property
    def preset(self) -> Preset:
        spec = self.study.tasks[self.task]
        return presets_of(spec.task)[spec.preset]

    @property
    def epochs(self) -> int:
        return self.study.tasks[self.task].epochs or self.preset.epochs

    @property
    def tuning_epochs(self) -> int:
        """A task's schedule is one of the whole run, so that it fits a run of fewer epochs."""
        wanted = self.study.tuning.fraction * self.epochs
        if round(wanted) < 1:
            raise UserError(
                f"a fraction of {self.study.tuning.fraction} of {self.epochs} epochs of {self.task} is no "
                f"epoch: give [tasks.{self.task}] more epochs, or [tuning] a larger fraction."
            )
        return round(wanted)

    def _tuning(self, labels: Iterable[str]) -> list[Cell]:
        """Points outermost, so that all optimizers stand equally wherever it is stopped."""
        labels = list(labels)
        longest = max((len(self.points[label]) for label in labels), default=0)
        return [
            self._cell(label, "tune", i, self._settings(label, self.points[label][i]), seed)
            for i in range(longest)
            for seed in self.study.tuning.seeds
            for label in labels
            if i < len(self.points[label])
        ]

    def _finals(self, labels: Iterable[str]) -> list[Cell]:
        labels = list(labels)
        of = {label: self.study.optimizers[label].seeds or self.study.final.seeds for label in labels}
        seeds = dict.fromkeys(chain(self.study.final.seeds, *of.values()))
        return [self.final_cell(label, seed) for seed in seeds for label in labels if seed in of[label]]

    def final_cell(self, label: str, seed: int) -> Cell:
        source = self.source(label)
        point = self.chosen(source) if source else None
        return self._cell(label, "final", point, self.settings(label), seed)

    def _published(self, labels: Iterable[str]) -> list[Cell]:
        published, presets = self.study.published, presets_of(self.study.tasks[self.task].task)
        if published is None or published.preset not in presets:
            return []
        recipes = presets[published.preset].recipes
        named = [label for label in labels if label in recipes]
        return [
            self._cell(label, "published", None, dict(recipes[label].settings), seed)
            for seed in published.seeds
            for label in named
        ]

    def _key(self, label: str, stage: str, point: int | None, seed: int) -> str:
        shown = label if stage == UNTRAINED else f"{label} {stage}"
        return f"{self.task}/{shown}{'' if point is None else f'-{point:02d}'}/seed-{seed}"

    def _cell(
        self, label: str, stage: str, point: int | None, settings: Mapping[str, Any], seed: int
    ) -> Cell:
        spec, about, preset = self.study.tasks[self.task], self.study.about, self.preset
        epochs = {"tune": self.tuning_epochs, UNTRAINED: 1}.get(stage, self.epochs)
        config = {
            "task": spec.task, "preset": spec.preset, "model": spec.model or preset.models[0],
            "epochs": epochs, "batch_size": spec.batch_size or preset.batch_size,
            "limit_batches": spec.limit_batches, "device": _device(about), "precision": about.precision,
            "devices": 1, "strategy": None,
            "optimizer": "sgd" if stage == UNTRAINED else self.study.optimizers[label].optimizer,
            "settings": dict(settings), "seed": seed, "threads": about.threads, **higher_of(spec.task),
        }  # fmt: skip
        cell = Cell(self._key(label, stage, point, seed), self.task, label, stage, point, plain(config))
        if cell.key in self.found:
            check_same(cell, self.found[cell.key].config, self.study)
        return cell


def _device(about: About) -> str:
    """What auto is here: a run's identity has the device that it ran on."""
    return resolve_device("auto", about.precision, 1, None) if about.device == "auto" else about.device


def check_same(cell: Cell, found: Row, study: Study) -> None:
    """Raises UserError where a finished run is not the one that the file asks for."""
    for key in IDENTITY:
        if cell.config.get(key) != found.get(key):
            raise UserError(
                f"the finished run {cell.key} has {key} {found.get(key)!r}, the study's file "
                f"{cell.config.get(key)!r}: {_fix(study, key, found.get(key))}."
            )


def _fix(study: Study, key: str, found: Any) -> str:
    """An extension may have more settings to tune; what else it changes is so of the other's runs too."""
    if key == "device" and study.about.device == "auto":
        return f'auto is another device here, so write device = "{found}" in [study]'
    if key not in ("optimizer", "settings"):
        return "undo the change, or make it in a task or a study of another name"
    if study.base:
        return "undo the change, or make it in an optimizer of another name"
    return (
        "undo the change (a setting more that is tuned, or has a range, moves all points), or make it in a "
        "study that extends this one"
    )


def next_cells(study: Study, tasks: Iterable[str], found: Found) -> list[Cell]:
    """What can be run now: of each task the rest of its first stage that is not complete, tasks in turn."""
    ready = []
    for task in tasks:
        plan = TaskPlan(study, task, found)
        missing = ([cell for cell in stage if cell.key not in found] for stage in plan.stages())
        ready.append(next(filter(None, missing), []))
    return [cell for turn in zip_longest(*ready) for cell in turn if cell is not None]
