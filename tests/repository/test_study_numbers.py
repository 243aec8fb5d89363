"""Pages written by hand tell a study's numbers as its tables have them."""

import csv
import re
from itertools import chain
from pathlib import Path

import pytest

import aida

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "docs" / "results" / "study"
NUMBER = r"[-+−]?\d+\.\d{3,}"
INTERVAL = re.compile(rf"({NUMBER})\s+\[({NUMBER}),\s+({NUMBER})\]")
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


def says(text, value):
    """Whether a number is a value, to the digits that it has."""
    return f"{value:.{len(text.partition('.')[2])}f}" == text.replace("−", "-").removeprefix("+")


def wrong(text):
    """Intervals that are no difference of a table, either way round, and other numbers that are no mean."""
    known = differences()
    known += [(-mean, -high, -low) for mean, low, high in known]
    bad = [m[0] for m in INTERVAL.finditer(text) if not any(all(map(says, m.groups(), row)) for row in known)]
    rest = INTERVAL.sub("", text)
    plain = [*means(), *(abs(row[0]) for row in known)]
    return bad + [number for number in re.findall(NUMBER, rest) if not any(says(number, v) for v in plain)]


@pytest.mark.parametrize("page", TOLD)
def test_a_page_s_numbers_are_those_of_the_tables(page):
    assert wrong(TOLD[page]) == []


def test_a_number_that_no_run_gave_is_seen():
    """Negative controls, each a digit away from what is told."""
    found = INTERVAL.search(TOLD["docs/results/study/README.md"])
    assert found
    assert wrong(found[0]) == []
    assert wrong(found[0].replace(found[2], found[2][:-1] + str((int(found[2][-1]) + 1) % 10)))
    assert wrong(found[0].replace(f"[{found[2]}, {found[3]}]", f"[{found[3]}, {found[2]}]"))
    assert not wrong(f"{means()[0]:.4f}")
    assert wrong("9.9999")
