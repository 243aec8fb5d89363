"""Pages written by hand tell a study's numbers as its tables have them."""

import csv
import re
import runpy
from itertools import chain
from pathlib import Path

import pytest

import aida

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "docs" / "results" / "study"
PAPER = re.compile(r"arXiv[: ]\d+\.\d+")
NUMBER = r"[-+−]?\d+\.\d{3,}"
INTERVAL = re.compile(rf"({NUMBER})\s+\[({NUMBER}),\s+({NUMBER})\]")
SHARE = re.compile(r"(\d+(?:\.\d+)?)\s%")
TOLD = {
    "README.md": (ROOT / "README.md").read_text().partition("## Is it worth it?")[2].partition("\n## ")[0],
    "docs/results/study/README.md": (STUDY / "README.md").read_text(),
    "docs/guide/eps.md": (ROOT / "docs" / "guide" / "eps.md").read_text().partition("## Which eps")[2],
    "presets": "\n".join(s for n in aida.presets if "study" in (s := aida.presets.source(n))),
}
"""Of each page the part that tells of the study."""


def rows_of(name):
    for path in sorted(STUDY.glob(f"*/{name}.csv")):
        with path.open() as file:
            yield from csv.DictReader(file)


def differences():
    keys = ("difference", "low", "high")
    return [tuple(float(row[key]) for key in keys) for row in rows_of("differences") if row["low"]]


def means():
    rows = chain(rows_of("scores"), rows_of("published"), rows_of("sweeps"))
    return [float(row["mean"]) for row in rows if row["mean"]]


def told_by_the_report():
    """Numbers and intervals of the page that is made from the rows, as it has them."""
    text = "\n".join(path.read_text() for path in sorted(STUDY.glob("*/README.md")))
    triples = [m.groups() for m in INTERVAL.finditer(text)]
    return {tuple(each.lstrip("+-") for each in t) for t in triples}, set(re.findall(NUMBER, text))


def says(text, value):
    """Whether a number is a value, to the digits that it has."""
    return f"{value:.{len(text.partition('.')[2])}f}" == text.replace("−", "-").removeprefix("+")


def wrong(text):
    """Intervals that are no difference of a table, either way round, and other numbers that are no mean."""
    known = differences()
    known += [(-mean, -high, -low) for mean, low, high in known]
    told, numbers = told_by_the_report()
    bad = [
        m[0]
        for m in INTERVAL.finditer(text)
        if m.groups() not in told and not any(all(map(says, m.groups(), row)) for row in known)
    ]
    plain = [*means(), *(abs(row[0]) for row in known)]
    rest = re.findall(NUMBER, PAPER.sub("", INTERVAL.sub("", text)))
    return bad + [n for n in rest if n not in numbers and not any(says(n, value) for value in plain)]


@pytest.mark.parametrize("page", TOLD)
def test_a_page_s_numbers_are_those_of_the_tables(page):
    assert re.search(NUMBER, TOLD[page])
    assert wrong(TOLD[page]) == []


def test_the_shares_at_the_cap_are_those_of_the_tables():
    capped = [float(row["capped"]) for row in rows_of("stepsizes") if row["capped"]]
    told = SHARE.findall(TOLD["docs/results/study/README.md"])
    assert told
    assert [share for share in told if not any(says(share, 100 * each) for each in capped)] == []


def test_the_table_of_eps_has_each_value_in_its_place():
    lines = [line.strip("| ").split(" | ") for line in TOLD["docs/guide/eps.md"].splitlines() if "|" in line]
    (_, *tasks), _, *body = lines
    swept = {(row["task"], float(row["value"])): row for row in rows_of("sweeps") if row["chosen"] == "False"}
    assert len(body) * len(tasks) == 18
    for first, *cells in body:
        for task, cell in zip(tasks, cells, strict=True):
            row = swept[task, float(first.partition(",")[0])]
            loss, share = cell.removesuffix(" %)").split(" (")
            assert says(loss, float(row["mean"])), (task, first)
            assert says(share, 100 * float(row["capped"])), (task, first)


PRESETS = {"llm": "gpt", "lstm": "lm", "cnn": "mnist"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_the_study_chose(name):
    chosen = [row for row in rows_of("chosen") if (row["task"], row["optimizer"]) == (PRESETS[name], "aida")]
    row = chosen[0]
    assert all(other == row for other in chosen), "a study that repeats the rows chose otherwise"
    for key in ("lr", "eps", "weight_decay"):
        assert f"{aida.presets[name][key]:.1e}" == f"{float(row[key]):.1e}", key
    assert f"tuned on {PRESETS[name]}" in aida.presets.source(name)


def test_a_number_that_no_run_gave_is_seen():
    """Negative controls, each a digit away from what is told."""
    found = INTERVAL.search(TOLD["docs/results/study/README.md"])
    assert found
    assert wrong(found[0]) == []
    assert wrong(found[0].replace(found[2], found[2][:-1] + str((int(found[2][-1]) + 1) % 10)))
    assert wrong(found[0].replace(f"[{found[2]}, {found[3]}]", f"[{found[3]}, {found[2]}]"))
    assert not wrong(f"{means()[0]:.4f}")
    assert wrong("9.9999")


@pytest.mark.parametrize("form", ["png", "svg"])
def test_the_summary_is_drawn_from_the_tables(form):
    script = runpy.run_path(str(ROOT / "reproduce" / "study_summary.py"))
    said = script["description"](script["differences"]())
    assert "Aida minus AdamW on gpt: -0.1275 [" in said
    assert said.encode() in (STUDY / f"summary.{form}").read_bytes()
