"""A study's finished runs in one file for a commit, with what was there of them already."""

from __future__ import annotations

from os.path import normpath
from pathlib import Path

from aida_bench.errors import UserError
from aida_bench.study.cells import TaskPlan
from aida_bench.study.records import ROWS, Found, own_of, read_records, read_rows, write_rows
from aida_bench.study.spec import Study


def export(study: Study, folder: Path) -> tuple[Path, int]:
    """The file, and how many runs it has now.

    Raises UserError where no run has ended, or where the rows there are another study's: nothing is written.
    """
    found, there = read_records(study), read_rows(folder)
    own, name = own_of(study, found), study.path.name
    if not own:
        raise UserError(
            f"no run of {name} has ended here, in {study.folder}: `aida study run {name}` starts them."
        )
    if study.rows_folder is None or normpath(folder) != normpath(study.rows_folder):
        _refuse_others(study, found, there, folder)
    kept = {**there, **own}
    return write_rows(folder, kept.values()), len(kept)


def _refuse_others(study: Study, found: Found, there: Found, folder: Path) -> None:
    """Rows of the study's own folder are its own, whatever the file names no more."""
    reason = ""
    try:
        plans = [TaskPlan(study, task, {**found, **there}) for task in study.tasks]
        planned = {cell.key for plan in plans for cell in plan.all_cells()}
    except UserError as error:
        reason = str(error).rpartition(":")[0]
    else:
        strange = sorted(there.keys() - (planned & own_of(study, there).keys()))
        reason = f"{strange[0]} is none of its runs" if strange else ""
    if reason:
        raise UserError(
            f"{folder / ROWS} has rows of another study than {study.path.name} ({reason}): name another "
            "folder with --to."
        )
