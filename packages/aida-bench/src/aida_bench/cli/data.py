"""`aida data`: what there is, what is here, and whether it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from aida_bench.cli.errors import one_line_errors
from aida_bench.errors import UserError, choose, say

app = typer.Typer(no_args_is_help=True, help="Data sets: list, fetch and verify them.")
Names = Annotated[
    list[str] | None,
    typer.Argument(help="Names of data sets; by default all that are here.", metavar="[NAME]..."),
]


@app.command("list")
def list_() -> None:
    """Every data set, and whether it is in the cache folder: $AIDA_DATA, by default ~/.cache/aida."""
    from aida_bench.data.catalogue import DATA_SETS

    with one_line_errors("nothing was changed."):
        table = Table("name", "data set", "content", "licence as stated", "here")
        for name, data in DATA_SETS.items():
            content = ", ".join(f"{count:,} {split}" for split, count in data.counts.items())
            size = _size(name)
            here = "yes" if data.embedded else f"{size / 1e6:.1f} MB" if size else "no"
            table.add_row(name, data.title, f"{content} {data.unit}".strip(), data.licence, here)
        Console().print(table)


@app.command()
def fetch(names: Annotated[list[str], typer.Argument(help="Names of data sets.", metavar="NAME...")]) -> None:
    """Get data sets into the cache folder; what is there already is not fetched again."""
    _check(names)


@app.command()
def verify(names: Names = None) -> None:
    """Load data sets and check their checksums and counts."""
    from aida_bench.data.catalogue import DATA_SETS

    with one_line_errors("nothing was changed."):
        _check(names or [name for name, data in DATA_SETS.items() if data.embedded or _size(name)])


def _check(names: Sequence[str]) -> None:
    from aida_bench.data.catalogue import DATA_SETS

    console = Console()
    with one_line_errors("nothing half-fetched was kept."):
        for name in [choose("data set", name, DATA_SETS) for name in names]:
            data = DATA_SETS[name]
            with console.status(f"loading {data.title} …"):
                found = data.load()
            if data.counts and found != data.counts:
                raise UserError(
                    f"{name} has {found} {data.unit}, not {dict(data.counts)}: "
                    f"delete its folder and fetch it again."
                )
            counted = ", ".join(f"{count:,} {split}" for split, count in found.items())
            say(console, f"{name}: {counted} {data.unit}")


def _size(name: str) -> int:
    from aida_bench.data.fetch import cache_folder

    return sum(path.stat().st_size for path in cache_folder(name).rglob("*") if path.is_file())
