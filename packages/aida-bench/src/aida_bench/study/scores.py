"""One task of a study as its report sees it: final scores by seed, what is missing, times to a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite
from statistics import fmean, median

from aida_bench.report.metrics import Metric, key_label
from aida_bench.report.statistics import Interval, paired_interval
from aida_bench.study.cells import UNTRAINED, Cell, TaskPlan
from aida_bench.study.records import Found, Record, Scoring
from aida_bench.study.spec import Study
from aida_bench.study.statistics import holm, normalised


@dataclass(frozen=True)
class Reached:
    """How many of an optimizer's seeds came to the target, and when the median one did: inf for never."""

    count: int
    seeds: int
    steps: float
    cpu_seconds: float


class TaskScores:
    """Costs (less is better) of the last epoch; a run that diverged has the worst of its task, `worst`."""

    def __init__(self, study: Study, task: str, found: Found) -> None:
        self.study, self.task = study, task
        self.plan = TaskPlan(study, task, found)
        self.cells = self.plan.all_cells()
        self.missing_cells = [cell for cell in self.cells if cell.key not in found]
        self._found = found
        self.finals = {label: self._records("final", label) for label in self.plan.optimizers}
        self.published = {
            label: records for label in self.plan.optimizers if (records := self._records("published", label))
        }

    def _records(self, stage: str, label: str) -> dict[int, Record]:
        mine = (c for c in self.cells if c.stage == stage and c.optimizer == label)
        return {c.config["seed"]: self._found[c.key] for c in mine if c.key in self._found}

    @property
    def scoring(self) -> Scoring | None:
        """None before any run of the task has ended."""
        return self.plan.scoring

    @property
    def measure(self) -> Metric:
        assert self.scoring
        return self.scoring.measure

    @property
    def scored_by(self) -> str:
        return self.scoring.scored_by if self.scoring else ""

    @property
    def label(self) -> str:
        """What is scored, such as "test loss"."""
        return key_label(self.scored_by, self.measure)

    def shown(self, cost: float) -> float:
        """A cost, or a difference of costs, as the measure itself has it."""
        return -cost if self.scoring and self.measure.higher else cost

    def _cost(self, record: Record) -> float:
        """inf for one that diverged."""
        assert self.scoring
        return self.scoring.cost(record, self.scoring.scored_by)

    @cached_property
    def untrained(self) -> float | None:
        """None while it has not been measured, and where that gave no number."""
        record = next((self._found.get(c.key) for c in self.cells if c.stage == UNTRAINED), None)
        return None if record is None or record.diverged else self._cost(record)

    @cached_property
    def worst(self) -> float | None:
        """Of final runs, published settings and the untrained model; None where none has a score."""
        records = [r for kind in (self.finals, self.published) for own in kind.values() for r in own.values()]
        costs = [self._cost(record) for record in records if not record.diverged]
        return max(costs + ([] if self.untrained is None else [self.untrained]), default=None)

    def costs(self, label: str, published: bool = False) -> dict[int, float]:
        """By seed; none where no run of the task has a score."""
        records = (self.published if published else self.finals).get(label, {})
        costs = {seed: self.worst if r.diverged else self._cost(r) for seed, r in sorted(records.items())}
        return {seed: cost for seed, cost in costs.items() if cost is not None}

    def mean(self, label: str) -> float | None:
        costs = self.costs(label)
        return fmean(costs.values()) if costs else None

    def diverged(self, label: str) -> int:
        return sum(record.diverged for record in self.finals[label].values())

    def seeds(self, label: str) -> Sequence[int]:
        own = self.study.optimizers[label].seeds
        return self.study.final.seeds if own is None else own

    def missing(self, label: str) -> list[str]:
        """What of an optimizer's own has not ended, in words."""
        if label not in self.plan.optimizers:
            return [f"{label} takes no part in {self.task}"]
        source = self.plan.source(label)
        points = self.plan.costs(source).count(None) if source else 0
        finals = len(self.seeds(label)) - len(self.finals[label])
        words = [f"{points} tuning points of {source}"] if points else []
        return words + ([f"{finals} final runs of {label}"] if finals else [])

    @property
    def tuned(self) -> list[str]:
        return [label for label, each in self.plan.optimizers.items() if each.tune]

    @cached_property
    def best(self) -> str | None:
        """The tuned optimizer with the lowest mean cost, of those with all their final runs, not all of which
        diverged."""
        whole = [label for label in self.tuned if not self.missing(label)]
        whole = [label for label in whole if self.diverged(label) < len(self.finals[label])]
        return min(whole, key=lambda label: fmean(self.costs(label).values()), default=None)

    @cached_property
    def unscaled(self) -> str:
        """Why there is no distance although nothing is missing; empty where there is one, or something is."""
        if self.missing_cells or self.distance:
            return ""
        if self.untrained is None:
            return f"the untrained model of {self.task} has no finite score"
        return f"no tuned optimizer beats the untrained model of {self.task}"

    @cached_property
    def distance(self) -> float:
        """From the untrained model to the best tuned optimizer; 0 while one is missing, or none is better."""
        best = self.mean(self.best) if self.best else None
        return 0.0 if best is None or self.untrained is None else max(self.untrained - best, 0.0)

    def normalised(self, label: str) -> list[float] | None:
        """Scores between the untrained model (0) and the best tuned optimizer (1)."""
        if not self.distance or self.untrained is None:
            return None
        return normalised(list(self.costs(label).values()), self.untrained, self.distance)

    def difference(self, mine: str, theirs: str) -> Interval | None:
        """Descriptive: mine - theirs, paired by seed, its interval not corrected."""
        return paired_interval(self.costs(mine), self.costs(theirs), theirs)

    @cached_property
    def primary(self) -> dict[str, Interval | None]:
        """Differences of [comparisons], Holm-corrected; none where there is no such table."""
        wanted = self.study.comparisons
        if wanted is None or wanted.of not in self.plan.optimizers:
            return {}
        rivals = {label: self.costs(label) for label in wanted.primary if label in self.plan.optimizers}
        return holm(self.costs(wanted.of), rivals)

    def corrected(self, mine: str, theirs: str) -> Interval | None:
        """Corrected where it is one of the primary comparisons."""
        wanted = self.study.comparisons
        primary = wanted is not None and mine == wanted.of and theirs in self.primary
        return self.primary[theirs] if primary else self.difference(mine, theirs)

    @cached_property
    def target(self) -> float | None:
        """The worst final seed of the optimizer that [comparisons] calls target."""
        label = self.study.comparisons.target if self.study.comparisons else ""
        costs = self.costs(label) if label in self.plan.optimizers else {}
        return max(costs.values()) if costs and not self.missing(label) else None

    def reached(self, label: str) -> Reached | None:
        """The first epoch whose score is the target's or better; None while there is no target or no run."""
        records = self.finals[label].values()
        if self.target is None or not records:
            return None
        times = [self._time(record, self.target) for record in records]
        steps, seconds = (median(each) for each in zip(*times, strict=True))
        return Reached(sum(isfinite(t[0]) for t in times), len(times), steps, seconds)

    def _time(self, record: Record, target: float) -> tuple[float, float]:
        assert self.scoring
        if record.diverged:
            return inf, inf
        seconds, timings = 0.0, {row["epoch"]: row for row in record.timings}
        for row in record.epochs:
            timing = timings.get(row["epoch"], {})
            seconds += timing.get("cpu_seconds", timing.get("seconds", 0.0))
            value = row.get(self.scoring.scored_by)
            if value is not None and self.shown(value) <= target:
                return timing.get("batches", inf), seconds
        return inf, inf


def over_tasks(scores: Mapping[str, TaskScores]) -> dict[str, dict[str, list[float]]]:
    """Normalised scores by optimizer and task, of those that are whole on every task, on all final seeds;
    without tasks whose scores cannot be normalised."""
    found: dict[str, dict[str, list[float]]] = {}
    scaled = {task: each for task, each in scores.items() if not each.unscaled}
    for label, spec in next(iter(scores.values())).study.optimizers.items():
        own = {task: each.normalised(label) for task, each in scaled.items() if not _lacking(each, label)}
        whole = {task: values for task, values in own.items() if values}
        if spec.seeds is None and whole and len(whole) == len(scaled):
            found[label] = whole
    return found


def _lacking(scores: TaskScores, label: str) -> bool:
    return scores.scoring is None or bool(scores.missing(label))


def missing_cells(scores: Mapping[str, TaskScores]) -> list[Cell]:
    return [cell for each in scores.values() for cell in each.missing_cells]
