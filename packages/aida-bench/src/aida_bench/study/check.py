"""What the parts of a study's file must be to each other."""

from __future__ import annotations

from collections.abc import Sequence

from aida_bench.errors import UserError, choose
from aida_bench.seeds import check_seeds
from aida_bench.study.spec import CLAIM_KINDS, Claim, OptimizerEntry, Study, Tuning
from aida_bench.tasks import presets_of, splits_of


def check(study: Study) -> None:
    """Raises UserError for a file whose tables do not fit each other."""
    name = study.path.name
    _check_labels(study, name)
    for label, each in study.optimizers.items():
        _check_optimizer(each, f"[optimizers.{label}] in {name}", study)
    _check_comparisons(study, f"[comparisons] in {name}")
    for label, claim in study.claims.items():
        _check_claim(claim, f"[claims.{label}] in {name}", study)
    _check_tuning(study, name)
    _check_all_seeds(study, name)


def check_names(study: Study) -> None:
    """Raises UserError for a preset, recipe or validation split that a task does not have, whose class is
    imported."""
    name, published = study.path.name, study.published
    found = {label: presets_of(each.task) for label, each in study.tasks.items()}
    for label, each in study.tasks.items():
        splits = splits_of(each.task)
        if splits and "validation" not in splits:
            raise UserError(
                f"{each.task} of [tasks.{label}] in {name} has no validation split, which tuning goes by: "
                'let its splits begin with "validation".'
            )
        preset = found[label][choose(f"preset of [tasks.{label}] in {name}", each.preset, found[label])]
        for optimizer in study.optimizers_of(label):
            if recipe := study.optimizers[optimizer].recipe:
                choose(f"recipe of [optimizers.{optimizer}] in {name}, on {label},", recipe, preset.recipes)
    if published and not any(published.preset in presets for presets in found.values()):
        known = dict.fromkeys(preset for presets in found.values() for preset in presets)
        choose(f"preset of [published] in {name}", published.preset, known)


def _check_labels(study: Study, name: str) -> None:
    for what, found in (("tasks", study.tasks), ("optimizers", study.optimizers)):
        if not found:
            raise UserError(f"{name} names no {what}: add a table [{what}.NAME].")
        for label in found:
            if not label.strip() or "/" in label or ":" in label or label.startswith("."):
                raise UserError(
                    f"[{what}.{label}] in {name} names folders: leave out / and : and a first dot."
                )
    named = [(f"name {study.about.name!r} in [study]", study.about.name)]
    for what in ("tasks", "optimizers", "sweeps", "claims"):
        named += [(f"[{what}.{label!r}]", label) for label in getattr(study, what)]
    for where, label in named:
        if not label.isprintable():
            raise UserError(
                f"{where} in {name} has what cannot be printed: leave out line ends and control characters."
            )
    if "/" in study.about.name or study.about.name.startswith("."):
        raise UserError(
            f"name {study.about.name!r} in [study] of {name} names folders: leave out / and a first dot."
        )
    for task in study.tasks:
        if not study.optimizers_of(task):
            raise UserError(f"no optimizer of {name} takes part in [tasks.{task}]: add it to one's tasks.")
    base = study.base
    if base and {study.folder, study.rows_folder} & {base.folder, base.rows_folder} - {None}:
        raise UserError(
            f"{name} has the runs or rows of {base.path.name}, which it extends: give [study] a name and "
            "rows of its own."
        )


def _check_optimizer(each: OptimizerEntry, where: str, study: Study) -> None:
    for key in each.tune:
        if key not in each.space:
            choose(f"tuned setting of {where}, which has no range in [space],", key, study.space)
    for key in each.space:
        choose(f"key of space in {where}, which is not tuned,", key, each.tune)
    _check_tasks(each.tasks, where, study)
    if not each.settings_from:
        return
    tuned = [other for other, spec in study.optimizers.items() if spec.tune]
    choose(f"settings_from of {where}", each.settings_from, tuned)
    source = study.optimizers[each.settings_from]
    if each.tune:
        raise UserError(f"{where} is tuned and has settings_from: leave one of them out.")
    if source.phase > each.phase:
        raise UserError(f"{where} has phase {each.phase}, its settings_from {source.phase}: raise its phase.")
    if source.tasks is not None and not set(each.tasks or study.tasks) <= set(source.tasks):
        raise UserError(f"{where} takes part in tasks that its settings_from does not: give it fewer tasks.")


def _check_tasks(tasks: Sequence[str] | None, where: str, study: Study) -> None:
    if tasks == ():
        raise UserError(f"tasks of {where} is an empty list: name a task, or leave it out for all.")
    for task in tasks or ():
        choose(f"task of {where}", task, study.tasks)


def _check_comparisons(study: Study, where: str) -> None:
    wanted = study.comparisons
    if wanted is None:
        return
    for label in (wanted.of, *wanted.primary, *filter(None, [wanted.target])):
        choose(f"optimizer of {where}", label, study.optimizers)
    if wanted.of in wanted.primary:
        raise UserError(f"{where} compares {wanted.of} with itself: leave it out of primary.")


def _check_claim(claim: Claim, where: str, study: Study) -> None:
    choose(f"kind of {where}", claim.kind, CLAIM_KINDS)
    for label in claim.optimizers:
        choose(f"optimizer of {where}", label, study.optimizers)
    if claim.of in (*claim.against, *claim.ablations, claim.limit) and claim.of:
        raise UserError(f"{where} compares {claim.of} with itself: name other rivals.")
    _check_tasks(claim.tasks, where, study)
    for task in claim.tasks or ():
        if without := [label for label in claim.optimizers if label not in study.optimizers_of(task)]:
            raise UserError(f"{without[0]} of {where} takes no part in {task}: leave that task out.")
    if not any(set(claim.optimizers) <= {*study.optimizers_of(task)} for task in study.tasks):
        raise UserError(f"on no task do all optimizers of {where} take part: give them a task in common.")
    if claim.kind == "within-margin":
        if not claim.pairs or any(len(pair) != 2 for pair in claim.pairs):
            raise UserError(f'{where} needs pairs of two optimizers: add pairs = [["ladam", "adamw"]].')
    elif not claim.of or not claim.against:
        raise UserError(f'{where} needs of and against: add of = "aida" and against = ["adamw"].')
    if claim.kind == "compact" and len(claim.against) > 1:
        raise UserError(f"{where} has {len(claim.against)} rivals: write a compact claim for each.")


def _check_tuning(study: Study, name: str) -> None:
    tuning = study.tuning
    if not 0 < tuning.fraction <= 1:
        raise UserError(f"[tuning] in {name} needs a fraction above 0, at most 1.")
    if tuning.widening_factor <= 1:
        raise UserError(f"[tuning] in {name}: widening_factor must be above 1.")
    if tuning.widened != Tuning.widened:
        tuned = dict.fromkeys(key for each in study.optimizers.values() for key in each.tune)
        for key in tuning.widened:
            choose(f"widened setting of [tuning] in {name}, which no optimizer tunes,", key, tuned)


def _check_all_seeds(study: Study, name: str) -> None:
    published = study.published.seeds if study.published else (0,)
    own = [each.seeds for each in study.optimizers.values() if each.seeds is not None]
    for where, seeds in (
        ("[tuning]", study.tuning.seeds), ("[final]", study.final.seeds), ("[published]", published),
        *(("an optimizer or sweep", seeds) for seeds in own),
    ):  # fmt: skip
        if not seeds:
            raise UserError(f"seeds of {where} in {name} is an empty list: name one seed or more.")
        check_seeds(seeds)
    finals = {*study.final.seeds, *(seed for seeds in own for seed in seeds)}
    if both := sorted(finals & {*study.tuning.seeds}):
        raise UserError(
            f"{name} tunes on seed {both[0]}, which is a final one too: choose other seeds in [tuning]."
        )
