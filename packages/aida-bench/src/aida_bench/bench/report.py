"""The step benchmark's result as a table on a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

Row = dict[str, Any]


def label(row: Row) -> str:
    moments = "" if row["moments"] == "float32" else f", {row['moments']} moments"
    return f"{row['optimizer']}, {row['backend']}{moments}"


def ratio(row: Row) -> str:
    low, high = row["quartiles"]
    return f"{row['ratio']:.2f} ({low:.2f}–{high:.2f})"


def line(row: Row) -> str:
    """One result as it comes."""
    where = row.get("model") or f"{row['size']} {row['sweep']}"
    head = f"{where}, {row['threads']} thread(s): {label(row)}"
    return f"{head}: left out, {row['left_out']}" if "left_out" in row else f"{head}: {ratio(row)}"


def cells(result: Row, threads: int) -> tuple[list[str], dict[str, list[str]]]:
    """The models, and for each candidate its ratios, one a model; empty where it was not timed."""
    rows = [row for row in result["results"] if row["threads"] == threads and "ratio" in row]
    models = list(dict.fromkeys(row["model"] for row in rows))
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(label(row), {})[row["model"]] = ratio(row)
    return models, {name: [by_model.get(model, "") for model in models] for name, by_model in found.items()}


def _thread_counts(result: Row) -> list[int]:
    return sorted({row["threads"] for row in result["results"]})


def tables(result: Row) -> list[Table]:
    """Ratios for each number of threads, memory, and what the number of layers and parameters costs."""
    made = []
    for threads in _thread_counts(result):
        models, by_name = cells(result, threads)
        table = Table(
            "optimizer", *models, title=f"Time of a step / {result['baseline']}; {threads} thread(s)"
        )
        for name, ratios in by_name.items():
            table.add_row(name, *ratios)
        made.append(table)
    return [*made, memory_table(result["results"]), sweep_table(result["sweeps"])]


def memory_table(rows: Iterable[Row]) -> Table:
    table = Table("optimizer", "model", "MB", title="Extra memory of a step at its peak")
    for row in rows:
        if "extra_bytes" in row:
            table.add_row(label(row), row["model"], f"{row['extra_bytes'] / 1e6:.3f}")
    return table


def sweep_table(rows: Iterable[Row]) -> Table:
    table = Table("optimizer", "number of", "", "µs", "AdamW, µs", title="Layers and parameters")
    for row in rows:
        if "ratio" in row:
            times = f"{1e3 * row['ms']:.1f}", f"{1e3 * row['baseline_ms']:.1f}"
            table.add_row(label(row), row["sweep"], f"{row['size']:,}", *times)
    return table


def left_out(result: Row) -> list[str]:
    """Each reason why something was not timed, once."""
    rows = [row for row in result["results"] if "left_out" in row]
    return list(dict.fromkeys(f"{label(row)}: {row['left_out']}" for row in rows))


def markdown(result: Row, names: Sequence[str] | None = None) -> str:
    """The ratios at the largest number of threads; `names` chooses and orders labels of candidates."""
    threads = _thread_counts(result)[-1]
    models, by_name = cells(result, threads)
    lines = [f"| | {' | '.join(models)} |", f"| --- |{' --- |' * len(models)}"]
    shown = [name for name in names or by_name if name in by_name]
    lines += [f"| {name} | {' | '.join(by_name[name])} |" for name in shown]
    on, used = result["machine"], result["versions"]
    commit = f", commit {used['commit'][:10]}" if used["commit"] else ""
    lines += [
        "",
        f"Time of one step divided by that of {result['baseline']}: median (quartiles) of interleaved pairs. "
        f"{on['accelerator'] or on['cpu']}, {threads} threads, torch {used['torch']}{commit}.",
    ]
    return "\n".join(lines)
