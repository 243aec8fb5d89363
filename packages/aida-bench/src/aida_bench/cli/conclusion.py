"""What a comparison's command writes when its runs have ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from aida_bench.errors import UserError, say, warn
from aida_bench.execution.plan import Plan
from aida_bench.report import terminal
from aida_bench.report.figures import write_figures
from aida_bench.report.read_rows import group, read_folder, stranger
from aida_bench.report.results import Result
from aida_bench.storage.files import to_json_lines, write_text
from aida_bench.storage.run import Run


def conclude(plan: Plan, runs: Sequence[Run], folder: Path, console: Console) -> None:
    """Of these runs and of others there that can be compared with them: the table first, so that whatever
    cannot be written or drawn after it loses nothing. Raises UserError for that.
    """
    own = {run.folder: read_folder(run.folder) for run in runs}
    found = [*own.values(), *_others(folder, own)]
    order = [spec.optimizer for spec in plan.specs]
    order = list(dict.fromkeys((*order, *(result.config["optimizer"] for result in found))))
    groups = [each for each in group(found) if own.keys() & {r.folder for r in each.results}]
    results = [result for each in groups for result in each.results]
    shown = {result.folder for result in results}
    results.sort(key=lambda result: (order.index(result.config["optimizer"]), result.label))
    table = terminal.table(results, f"{plan.task} · {plan.model} · {plan.epochs} epochs", console.width)
    rows, failed = folder / "rows.jsonl", []

    def write_rows() -> list[Path]:
        write_text(rows, to_json_lines(terminal.merged_rows(r for r in found if r.folder in shown)))
        return [rows]

    try:
        with told(failed, "standard output"):
            console.print(table)
    finally:  # a pipe whose reader has gone ends the command, by SystemExit
        for write in (write_rows, lambda: write_figures(results, folder)):
            with told(failed, str(folder)):
                for path in write():
                    say(console, f"wrote {path}")
    if failed:
        raise UserError(
            f"every run ended, but not all was written ({'; '.join(dict.fromkeys(failed))}): "
            f"`aida report {folder}` writes the figures when that is put right."
        )


@contextmanager
def told(failed: list[str], what: str) -> Iterator[None]:
    """Whatever is raised within becomes one more reason in `failed`, about `what` if it names no file."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            reason = f"{error.filename or what}: {error.strerror}"
        failed.append(reason)


def _others(folder: Path, own: Mapping[Path, Any]) -> Iterator[Result]:
    """What earlier commands left in the same folder."""
    for path in sorted(folder.glob("*/seed-*/config.json")):
        if path.parent not in own:
            try:
                result = read_folder(path.parent)
                if foreign := stranger(result.config):
                    raise UserError(f"{path} is not of a run of aida: {foreign}")
                yield result
            except UserError as error:
                warn(f"left out: {error}")
