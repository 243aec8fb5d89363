"""One self-contained page for a folder of runs: it opens from a file, without a network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aida_bench.report.figures import write_figures
from aida_bench.report.html.view import group_view, left_out_view, overview
from aida_bench.report.read_rows import Found, LeftOut, read_found, say_left_out
from aida_bench.report.results import Group
from aida_bench.storage.files import write_text

TEMPLATES = Path(__file__).parent / "templates"


def write_report(folder: Path) -> list[Path]:
    """Write the page and, as PNG and SVG, the figures; those of several tasks begin with the task's name."""
    found = _read(folder)
    paths, used = [_write(found, folder)], set()
    for group in found.groups:
        name = re.sub(r"[^a-z0-9]+", "-", group.title.lower()).strip("-")
        while name in used:
            name += "-other"
        used.add(name)
        prefix = f"{name}-" if len(found.groups) > 1 else ""
        paths += write_figures(group.results, folder, ("png", "svg"), prefix)
    return paths


def write_html(folder: Path) -> Path:
    """Write report.html in `folder` from every run below it, finished or not.

    What is no run of ours, or is damaged, is left out: the page and a warning say so. Raises UserError if
    there is no run.
    """
    return _write(_read(folder), folder)


def _read(folder: Path) -> Found:
    found = read_found(folder)
    say_left_out(found.left_out)
    return found


def _write(found: Found, folder: Path) -> Path:
    path = folder / "report.html"
    write_text(path, render(found.groups, folder.resolve().name, folder, found.left_out))
    return path


def render(groups: Sequence[Group], name: str, folder: Path, left_out: Sequence[LeftOut] = ()) -> str:
    """The page as text: the same groups give the same text."""
    colours = colour_numbers(groups)
    views = [group_view(group, f"task-{i}", folder, colours) for i, group in enumerate(groups, 1)]
    return page(
        "report.html.j2",
        name=name,
        about="optimizers compared",
        charts={view["id"]: view.pop("charts") for view in views},
        groups=views,
        left_out=left_out_view(left_out, folder),
        overview=overview(groups, colours) if len(groups) > 1 else None,
    )


def page(template: str, *, name: str, about: str, charts: Mapping[str, Any], **more: Any) -> str:
    """A template with style, script, Plotly and the charts' data written into it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return templates.get_template(template).render(
        name=name,
        about=about,
        charts=charts,
        plotly=get_plotlyjs(),
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "script.js").read_text(encoding="utf-8"),
        **more,
    )


# What is compared most often comes first, so that it has the same colour in every report.
FIRST = ("aida", "adamw", "adabelief", "sgd", "ladam", "ladabelief", "adam", "adamplus", "aida-k1", "laida")


def colour_numbers(groups: Sequence[Group]) -> dict[str, int]:
    """Each label's number in the palette, one for the whole page."""
    labels = dict.fromkeys(label for group in groups for label in group.optimizers)
    known = {name: number for number, name in enumerate(FIRST)}
    ordered = sorted(labels, key=lambda label: (known.get(label.split()[0], len(FIRST)), label))
    return {label: number for number, label in enumerate(ordered)}
