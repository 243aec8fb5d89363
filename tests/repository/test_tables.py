"""The tables of the docs are what the tools make of their results."""

import csv
import json
import runpy
from pathlib import Path

import pytest

from aida_bench.study.read import read_study
from aida_bench.study.records import read_committed
from aida_bench.study.report.write import write_report

ROOT = Path(__file__).parents[2]


def test_the_bytes_of_a_sharded_step(capsys):
    runpy.run_path(str(ROOT / "tools" / "sharding_tables.py"), run_name="__main__")
    page = (ROOT / "docs" / "guide" / "sharding.md").read_text().splitlines()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("|", "**"))]
    assert len(rows) == 2 * 10
    assert set(rows) <= set(page)


def test_the_bytes_by_hand():
    """Llama 2 of 7 billion parameters: 291 tensors; 4 sums of 8 bytes each, over 8 ranks in a ring."""
    script = runpy.run_path(str(ROOT / "tools" / "sharding_tables.py"))
    small, large = script["MODELS"]
    assert (small.layers, small.parameters) == (291, 6_738_415_616)
    assert (large.layers, large.parameters) == (723, 68_976_648_192)
    for way, numbers in {
        'Aida; "pre"; 4·L numbers': 4,
        'LAdam, LAdaBelief "post"; 2·L numbers': 2,
        'LAida "post"; 4·L and 2·L numbers': 6,
    }.items():
        assert script["WAYS"][way][1](small, 8) == 2 * 291 * numbers * 8 * 7 / 8


def test_training_in_8_bits():
    script = runpy.run_path(str(ROOT / "reproduce" / "int8_moments.py"))
    page = ROOT / "docs" / "results" / "int8"
    rows = map(json.loads, (page / "rows.jsonl").read_text().splitlines())
    lines = script["tables"](rows)
    assert len(lines) == 2 + 3 * 3
    assert [line for line in lines if line not in (page / "README.md").read_text().splitlines()] == []


def as_number(cell):
    try:
        return float(cell)
    except ValueError:
        return cell


def rounded(cell):
    number = as_number(cell)
    return cell if isinstance(number, str) else pytest.approx(number, rel=1e-9, abs=1e-12)


PUBLISHED = {
    path: study.rows_folder
    for path in sorted((ROOT / "studies").glob("*.toml"))
    if (study := read_study(path)).rows_folder and (study.rows_folder / "README.md").exists()
}


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_study_s_page_and_tables_are_those_of_its_rows(path, tmp_path):
    """But for the commits at the page's end, which need the whole history, and the figures' bytes."""
    folder = PUBLISHED[path]
    study = read_study(path)
    made = write_report(study, read_committed(study), tmp_path)
    for name in ("README.md", "tables.md"):
        ours, committed = (
            (at / name).read_text().partition("\n## What this rests on")[0] for at in (tmp_path, folder)
        )
        assert ours == committed, name
    tables = [each.name for each in made if each.suffix == ".csv"]
    assert len(tables) > 8
    for name in tables:  # the last bits of a mean are the machine's
        ours, committed = (
            list(csv.reader((at / name).read_text().splitlines())) for at in (tmp_path, folder)
        )
        assert len(ours) == len(committed), name
        for mine, theirs in zip(ours, committed, strict=True):
            assert mine == theirs or [as_number(c) for c in mine] == [rounded(c) for c in theirs], name
    assert {each.name for each in made} <= {each.name for each in folder.iterdir()}


def performance_table():
    return runpy.run_path(str(ROOT / "tools" / "performance_table.py"))


def test_the_cost_of_a_step_and_of_training():
    """Changed by hand, a page would say what no run has measured."""
    script = performance_table()
    assert script["TABLE"].search((ROOT / script["PAGES"][0]).read_text())
    for name in script["PAGES"]:
        page = (ROOT / name).read_text()
        if script["TABLE"].search(page):
            edited = script["TABLE"].sub(r"\1| nothing |\n\4", page)
            assert edited != page
            assert script["filled"](edited) == page


def test_a_page_without_a_place_for_a_table_or_without_its_result_is_named(tmp_path, monkeypatch):
    script = performance_table()
    monkeypatch.setitem(script["main"].__globals__, "ROOT", tmp_path)
    (tmp_path / "b.json").write_text('{"results": [{"precision": "float32"}]}')
    for text, message in (
        ("# Page\n", "no line"),
        ("<!-- table a.json -->\n<!-- /table -->", "a.json: No such"),
        ("<!-- table b.json float16 -->\n<!-- /table -->", "b.json: no row of precision 'float16'"),
    ):
        (tmp_path / "page.md").write_text(text)
        with pytest.raises(SystemExit, match=f"page.md: {message}"):
            script["main"]("page.md")
        assert (tmp_path / "page.md").read_text() == text


def test_a_result_of_training_becomes_its_table(tmp_path, monkeypatch):
    """A made result: time in thousandths, memory where it differs by a hundredth, the baseline's share."""
    script = performance_table()
    monkeypatch.setitem(script["main"].__globals__, "ROOT", tmp_path)
    aida, freed = dict(optimizer="Aida", ratio=1.0042), dict(optimizer="Freed", ratio=0.9)
    same = dict(model="m", batch=4, of="images", threads=2, baseline_share=0.0312, baseline_peak_bytes=1000)
    rows = [
        {"precision": "float32", "peak_bytes": 1004, **aida, **same},
        {"precision": "bfloat16", "peak_bytes": 700, **freed, **same},
    ]  # fmt: skip
    about = {
        "baseline": "AdamW", "machine": {"cpu": "Some CPU", "accelerator": None},
        "versions": {"torch": "2", "commit": None},
    }  # fmt: skip
    (tmp_path / "train.json").write_text(json.dumps({"results": rows, **about}))
    (tmp_path / "page.md").write_text("before\n<!-- table train.json -->\nold\n<!-- /table -->\nafter\n")
    script["main"]("page.md")
    lines = (tmp_path / "page.md").read_text().splitlines()
    assert lines[2] == "| | m, float32 | m, bfloat16 |"
    assert lines[4:7] == [
        "| Aida | 1.004 |  |",
        "| Freed |  | 0.900; memory 0.70 |",
        "| share of AdamW's step | 3.1% | 3.1% |",
    ]
    assert "Batches: m 4 images. Some CPU, 2 threads, torch 2." in lines[8]
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    (tmp_path / "page.md").write_text("<!-- table train.json bfloat16 -->\n<!-- /table -->")
    script["main"]("page.md")
    lines = (tmp_path / "page.md").read_text().splitlines()
    assert (lines[1], lines[3]) == ("| | m, bfloat16 |", "| Freed | 0.900; memory 0.70 |")
