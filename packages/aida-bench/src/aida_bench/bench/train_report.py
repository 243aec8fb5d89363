"""The training benchmark's result as a line, a table on a terminal and Markdown."""

from __future__ import annotations

from typing import Any

from rich.table import Table

Row = dict[str, Any]
MIB = 2**20


def line(row: Row) -> str:
    low, high = row["quartiles"]
    where = f"{row['model']}, {row['precision']}, {row['threads']} thread(s)"
    return (
        f"{where}: {row['optimizer']}: {row['ratio']:.3f} ({low:.3f}–{high:.3f}), {row['ms']:.0f} ms, "
        f"its share {row['share']:.1%}, AdamW's {row['baseline_share']:.1%}, {memory(row)}"
    )


def memory(row: Row) -> str:
    return f"{row['peak_bytes'] / MIB:.0f} MiB to {row['baseline_peak_bytes'] / MIB:.0f}"


def cell(row: Row) -> str:
    """Time, and where it is another by a hundredth, peak memory, both divided by the baseline's."""
    more = row["peak_bytes"] / row["baseline_peak_bytes"]
    return f"{row['ratio']:.3f}" + (f"; memory {more:.2f}" if abs(more - 1) >= 0.01 else "")


def cells(result: Row) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """Columns (model, precision), and for each optimizer its cells; empty where it was not timed."""
    rows = result["results"]
    columns = list(dict.fromkeys((row["model"], row["precision"]) for row in rows))
    names = list(dict.fromkeys(row["optimizer"] for row in rows))
    found = {(row["optimizer"], row["model"], row["precision"]): cell(row) for row in rows}
    return columns, {name: [found.get((name, *column), "") for column in columns] for name in names}


def shares(result: Row) -> list[str]:
    """The share of the baseline's step in an iteration, by column."""
    columns, _ = cells(result)
    of = {(row["model"], row["precision"]): row["baseline_share"] for row in result["results"]}
    return [f"{of[column]:.1%}" for column in columns]


def table(result: Row) -> Table:
    columns, by_name = cells(result)
    title = f"A whole iteration / {result['baseline']}'s"
    made = Table("optimizer", *(f"{model}, {precision}" for model, precision in columns), title=title)
    for name, row in by_name.items():
        made.add_row(name, *row)
    made.add_row(f"share of {result['baseline']}'s step", *shares(result))
    return made


def markdown(result: Row) -> str:
    columns, by_name = cells(result)
    lines = [
        f"| | {' | '.join(f'{model}, {precision}' for model, precision in columns)} |",
        f"| --- |{' --- |' * len(columns)}",
        *(f"| {name} | {' | '.join(row)} |" for name, row in by_name.items()),
        f"| share of {result['baseline']}'s step | {' | '.join(shares(result))} |",
    ]
    on, used, rows = result["machine"], result["versions"], result["results"]
    commit = f", commit {used['commit'][:10]}" if used["commit"] else ""
    batches = dict.fromkeys(f"{row['model']} {row['batch']} {row['of']}" for row in rows)
    lines += [
        "",
        f"Time of a whole iteration (forward, backward, step) divided by that with {result['baseline']}: "
        f"median of interleaved pairs; peak memory where it differs. Batches: {', '.join(batches)}. "
        f"{on['accelerator'] or on['cpu']}, {rows[0]['threads']} threads, torch {used['torch']}{commit}.",
    ]
    return "\n".join(lines)
