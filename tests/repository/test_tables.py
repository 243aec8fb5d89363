"""The tables of the docs are what the tools make of their results."""

import runpy
from pathlib import Path

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


def test_the_cost_of_a_step(tmp_path):
    """Changed by hand, the page would say what no run has measured."""
    script = runpy.run_path(str(ROOT / "tools" / "performance_table.py"))
    page = (ROOT / script["PAGE"]).read_text()
    written = tmp_path / "page.md"
    written.write_text(script["replaced"](page, "| nothing |"))
    assert written.read_text() != page
    script["main"](str(ROOT / script["RESULT"]), str(written))
    assert written.read_text() == page
