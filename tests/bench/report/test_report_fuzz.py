"""Every number that terminal, page, charts, Markdown and LaTeX show, recomputed from the files."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from aida_bench.errors import UserError
from aida_bench.report import terminal as report
from aida_bench.report.export import latex, markdown
from aida_bench.report.html import page as report_html
from aida_bench.report.read_rows import read_found
from helpers.bench.report_fuzz import expected, layer_table, make

FOLDERS, SHARE = 200, 10


class Cells(HTMLParser):
    """A page's tables by article and class: rows of cells, of each its parts by `data-of` and class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables, self.article, self.data, self.leads = {}, "", "", {}
        self.cell = self.table = self.lead = None
        self.kinds: list[str] = []
        self.reading = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "article":
            self.article = found["id"]
        elif tag == "table":
            known = sum(key[:2] == (self.article, found["class"]) for key in self.tables)
            self.table = self.tables.setdefault((self.article, found["class"], known), [])
        elif tag == "tr" and self.table is not None:
            self.table.append([])
        elif tag in ("td", "th") and self.table is not None:
            self.cell = {}
            self.table[-1].append(self.cell)
        elif tag == "p" and found.get("class") == "lead":
            self.lead = (self.article, found.get("data-of"))
        elif tag == "script":
            self.reading = found.get("id") == "data"
        if tag in ("span", "small"):
            kind = found.get("data-of") or (found.get("class") or tag).split()[0]
            self.kinds.append(kind)
            if found.get("data-of") and self.cell is not None:
                self.cell[f"{kind} class"] = found.get("class", "")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = None
        elif tag == "table":
            self.table = None
        elif tag == "p":
            self.lead = None
        elif tag == "script":
            self.reading = False
        elif tag in ("span", "small"):
            self.kinds.pop()

    def handle_data(self, data):
        if self.reading:
            self.data += data
        elif self.lead:
            self.leads[self.lead] = self.leads.get(self.lead, "") + data
        elif self.cell is not None and "when" not in self.kinds:
            key = next((kind for kind in self.kinds if kind in ("best", "last", "badge")), "")
            self.cell[key] = self.cell.get(key, "") + data


def clean(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def plain(monkeypatch):
    """Pages without Plotly's four megabytes."""
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "")


@pytest.mark.parametrize("first", range(0, FOLDERS, SHARE))
def test_every_surface_shows_what_the_files_say(tmp_path, plain, first, capsys):
    for seed in range(first, first + SHARE):
        made = make(tmp_path / f"{seed}", seed)
        tables = expected(made)
        if not tables:
            with pytest.raises(UserError):
                read_found(made.path)
            continue
        found = read_found(made.path)
        told = " ".join(str(path) for path, _ in found.left_out)
        assert all(each in told for each in made.left_out), (seed, told)
        page = Cells(report_html.write_html(made.path).read_text(encoding="utf-8"))
        data = json.loads(page.data)
        assert len(found.groups) == len(tables), seed
        for number, group in enumerate(found.groups, 1):
            wanted = tables[group.results[0].config["task"]].set_index("label", drop=False)
            name = f"task-{number}"
            check_terminal(group, wanted)
            check_text_tables(group, wanted)
            check_page(page, name, wanted)
            labels = dict(zip(wanted["key"], wanted["label"], strict=True))
            check_layers(page, name, layer_table(group.results[0].config["task"], made.runs, labels))
            check_charts(data[name], wanted)
        if len(tables) > 1:
            check_overview(page, found.groups, tables)
    capsys.readouterr()


def counts(row: pd.Series) -> str:
    n = 0 if row["so_far"] else row["n"]
    return f"{n}" if n == row["runs"] else f"{n} of {row['runs']}"


def lost(row: pd.Series) -> list[str]:
    return [f"{row[kind]} {kind}" for kind in ("diverged", "unfinished") if row[kind]]


def score(row: pd.Series, kind: str) -> str:
    return row[kind] + " so far" * bool(row["so_far"] and row["n"] > 0)


def check_terminal(group, wanted: pd.DataFrame) -> None:
    shown = io.StringIO()
    Console(file=shown, width=200).print(report.table(group.results, "title", 200))
    lines = shown.getvalue().splitlines()
    body = lines[next(i for i, line in enumerate(lines) if set(line) == {"─"}) + 1 :]
    found, names, caption = {}, [], ""
    for number, line in enumerate(body):
        cells = re.split(r"\s{2,}", line.strip())
        if len(cells) == 8:
            found[cells[0]] = cells[1:]
            names.append([])
        elif re.fullmatch(r"\d+ (diverged|unfinished)", cells[0]):
            names[-1].append(cells[0])
        else:
            caption = clean(" ".join(body[number:]))
            break
    assert caption.startswith(words(wanted))
    assert set(found) == set(wanted.index)
    for (name, cells), under in zip(found.items(), names, strict=True):
        row = wanted.loc[name]
        assert cells == [
            "★ " * int(row[f"{kind}_rank"] == 1) + score(row, kind) for kind in ("best", "last")
        ] + [counts(row), row["best_epoch"], row["train_loss"], row["seconds"], row["step_ms"]]
        assert under == lost(row)


def check_text_tables(group, wanted: pd.DataFrame) -> None:
    lines = markdown([group]).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    tex = latex([group]).partition("\\midrule\n")[2].partition("\\bottomrule")[0].splitlines()
    unescaped = [line.removesuffix(r" \\").replace(r"$\pm$", "±").replace("--", "–") for line in tex]
    marks = [re.sub(r"\\textbf\{(.*?)\}", r"**\1**", line).split(" & ") for line in unescaped]
    assert rows == marks
    assert {row[0] for row in rows} == set(wanted.index)
    assert wanted.loc[[row[0] for row in rows], "best_rank"].fillna(99).is_monotonic_increasing
    assert clean(lines[0]).startswith(f"{group.title}: {words(wanted)}")
    for cells in rows:
        row = wanted.loc[cells[0]]
        for kind, cell in zip(("best", "last"), cells[1:3], strict=True):
            bold = row[f"{kind}_rank"] == 1
            assert cell == (f"**{row[kind]}**" if bold else score(row, kind))
        assert cells[3] == ", ".join([counts(row), *lost(row)])
        assert cells[4] in row["best_rival"][0]
        assert cells[5] in row["best_adamw"][0]
        assert cells[6:] == [row["seconds"], row["step_ms"]]


def words(wanted: pd.DataFrame) -> str:
    """What the score is of."""
    found = wanted.attrs
    return (
        f"{found['scored'].split('_')[0]} {found['words']}" if found["measured"] else "No epoch is whole yet"
    )


def check_page(page: Cells, name: str, wanted: pd.DataFrame) -> None:
    rows = page.tables[name, "sortable results", 0]
    against = ["rival", "adamw"] if len(rows[0]) == 9 else ["rival"]
    assert (len(against) == 2) == any("–" not in row["best_adamw"][0] for _, row in wanted.iterrows())
    for cells in rows[1:]:
        row = wanted.loc[clean(cells[0][""])]
        for kind in ("best", "last"):
            assert clean(cells[1][kind]) == score(row, kind)
            assert cells[1][f"{kind} class"] == ("best" if row[f"{kind}_rank"] == 1 else "")
            for other, cell in zip(against, cells[3:], strict=False):
                texts, sign, _ = row[f"{kind}_{other}"]
                assert clean(cell[kind]) in texts
                assert cell[f"{kind} class"] == sign or len(texts) > 1
        assert clean(cells[2][""]) == counts(row)
        assert re.findall(r"\d+ [a-z]+", cells[2].get("badge", "")) == lost(row)
        shown = [clean(cell[""]) for cell in cells[-4:]]
        assert shown == [row["best_epoch"], row["train_loss"], row["seconds"], row["step_ms"]]
    for kind in ("best", "last"):
        check_lead(page.leads[name, kind], kind, wanted)


def check_layers(page: Cells, name: str, wanted: pd.DataFrame) -> None:
    rows = next(
        (t for key, t in page.tables.items() if key[0] == name and clean(t[0][-1][""]) == "deviation"), []
    )
    found = {}
    for cells in rows[1:]:
        label, layer, _, _, *shown = [clean(cell[""]) for cell in cells]
        found[label, int(layer)] = shown
    assert found == {key: list(row) for key, row in wanted.iterrows()}


def check_lead(said: str, kind: str, wanted: pd.DataFrame) -> None:
    first = wanted[wanted[f"{kind}_rank"] == 1]
    if not len(first):
        assert said in ("Every run diverged.", "No run has finished yet.", "No finished run has a score.")
        assert (said == "Every run diverged.") == (wanted["diverged"] == wanted["runs"]).all()
        return
    assert said.startswith("Highest" if wanted.attrs["higher"] else "Lowest")
    assert all(name in said for name in first.index)
    if len(first) > 1:
        assert "tied at" in said
        assert not re.search("cludes|tell", said)
        return
    (row,) = [row for _, row in first.iterrows()]
    assert row[kind] in said
    verdict = row[f"{kind}_rival"][2]
    told = [each for each in ("excludes", "includes", "too few", "cannot tell") if each in said]
    assert told == [verdict] * len(verdict[:1]) or len(row[f"{kind}_rival"][0]) > 1


def check_charts(data: dict, wanted: pd.DataFrame) -> None:
    scale = 100 if wanted.attrs["words"].endswith("%") else 1
    for optimizer in data["optimizers"]:
        row = wanted.loc[optimizer["name"]]
        for kind, chart in optimizer["scores"].items():
            values = row[f"{kind}_values"]
            assert dict(zip(chart["seeds"], chart["values"], strict=True)) == pytest.approx(
                (scale * values).to_dict(), rel=1e-5
            )
            assert chart["text"] == score(row, kind)
            if len(values):
                assert chart["mean"] == pytest.approx(scale * values.mean(), rel=1e-5)
            if len(values) > 1:
                assert chart["std"] == pytest.approx(scale * values.std(), rel=1e-5, abs=1e-12)
            for key, other in (("best_rival", "rival"), ("adamw", "adamw")):
                texts, sign, _ = row[f"{kind}_{other}"]
                assert (
                    chart[key] is None
                    if texts == {"–"}
                    else chart[key] is None or chart[key]["text"] in texts
                )
                assert not chart[key] or chart[key]["sign"] == sign or len(texts) > 1
            places = list(zip(chart["values"], chart["aside"], strict=True))
            assert len(places) == len(set(places)), "a dot hides another"


def check_overview(page: Cells, groups, tables) -> None:
    rows = page.tables["", "sortable matrix", 0]
    order = [tables[group.results[0].config["task"]].set_index("label") for group in groups]
    for cells in rows[1:]:
        name = clean(cells[0][""])
        ranks = [table.loc[name, "best_rank"] for table in order if name in table.index]
        ranks = [rank for rank in ranks if not np.isnan(rank)]
        assert clean(cells[-1][""]).split(" of ")[0] == (f"{np.mean(ranks):.2f}" if ranks else "–")
        for cell, table in zip(cells[1:-1], order, strict=True):
            shown = clean(cell[""])
            assert shown == (score(table.loc[name], "best") if name in table.index else "–")
