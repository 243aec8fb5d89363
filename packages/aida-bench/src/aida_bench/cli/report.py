"""`aida report`: the page, the tables and the figures of finished and unfinished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from aida_bench.cli.errors import one_line_errors
from aida_bench.errors import say
from aida_bench.storage.files import expand

Option = typer.Option
EPILOG = (
    "Examples:\n\n[bold]aida report runs/digits-1[/bold]\n\n[bold]aida report runs --latex > table.tex[/bold]"
)


def report(
    folder: Annotated[Path, typer.Argument(help="A folder with runs below it, finished or not.")],
    markdown: Annotated[bool, Option("--markdown", help="Print the tables as Markdown instead.")] = False,
    latex: Annotated[bool, Option("--latex", help="Print the tables as LaTeX instead.")] = False,
) -> None:
    """Write report.html, one page that needs no network, and the figures as PNG and SVG. Never trains."""
    with one_line_errors("nothing was written."):
        folder = expand(folder)
        if markdown or latex:
            from aida_bench.report import export
            from aida_bench.report.read_rows import read_groups

            form = export.latex if latex else export.markdown
            print(form(read_groups(folder)))  # typer.echo writes UTF-8 where the output is ASCII
            return
        from aida_bench.report.html.page import write_report

        for path in write_report(folder):
            say(Console(), f"wrote {path}")
