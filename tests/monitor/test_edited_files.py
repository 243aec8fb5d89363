"""Files that were edited before rows are appended: what is there stays, and all of it can be read."""

import csv
import json
import os
import warnings

import pandas
import pytest

import aida
from aida.monitor import CSV, JSONL, StepsizeMonitor, TensorBoard
from helpers.members import parameters, train

BOM = b"\xef\xbb\xbf"
SINKS = {"jsonl": JSONL, "csv": CSV}


def written(path, steps=range(2)):
    optimizer = aida.Aida(parameters())
    with StepsizeMonitor(optimizer, every=1, sinks=path):
        train(optimizer, steps)


def rows_of(path):
    """As a user's tools read them."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8-sig").splitlines()]
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert pandas.read_csv(path).columns[0] == "kind"
    assert all(None not in row and None not in row.values() for row in rows)
    return rows


@pytest.mark.parametrize("empty", [b"", b"\n", b"\r\n", b" \n\n", BOM, BOM + b"\r\n"])
@pytest.mark.parametrize("form", SINKS)
def test_a_file_without_any_text_is_an_empty_one(tmp_path, form, empty):
    path = tmp_path / f"rows.{form}"
    path.write_bytes(empty)
    with warnings.catch_warnings(action="error"):
        written(path)
    rows = rows_of(path)
    assert [row["kind"] for row in rows].count("stepsize") == 6
    assert [*tmp_path.iterdir()] == [path]


EDITS = {
    "a byte order mark": lambda text: BOM + text,
    "lines as Windows ends them": lambda text: text.replace(b"\n", b"\r\n"),
    "both": lambda text: BOM + text.replace(b"\n", b"\r\n"),
    "empty lines at the end": lambda text: text + b"\n\r\n \n",
    "no last end of a line": lambda text: text[:-1],
    "neither": lambda text: BOM + text.replace(b"\n", b"\r\n")[:-2],
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("form", SINKS)
def test_rows_follow_those_of_an_edited_file(tmp_path, form, edit):
    path = tmp_path / f"rows.{form}"
    written(path)
    first = rows_of(path)
    path.write_bytes(edit(path.read_bytes()))
    closed = path.read_bytes().endswith(b"\n") or form == "jsonl"
    with warnings.catch_warnings(action="error" if closed else "ignore"):
        written(path)
    rows = rows_of(path)
    assert len(rows) == 2 * len(first)
    if not closed:  # its last number may be the half of one: that alone is not known
        *_, last = first[-1]
        first[-1][last] = ""
    assert rows[: len(first)] == first
    assert [*tmp_path.iterdir()] == [path]


def test_a_row_without_its_end_that_lacks_columns_or_has_quotes_is_cut_off(tmp_path):
    path = tmp_path / "rows.csv"
    written(path)
    whole = path.read_bytes()
    for half in (
        b"stepsize,mine,3,0.1",
        b'stepsize,"a, b' + b"," * (whole.partition(b"\n")[0].count(b",") - 1),
    ):
        path.write_bytes(whole + half)
        with pytest.warns(
            UserWarning, match=f"ended in half a record.* its last {len(half)} bytes are cut off"
        ):
            written(path)
        assert path.read_bytes().startswith(whole)
        assert len(rows_of(path)) == 12
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "board"])
def test_a_relative_path_is_that_of_the_folder_where_it_was_given(tmp_path, monkeypatch, name):
    """However a training changes its folder afterwards."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    optimizer = aida.Aida(parameters())
    with StepsizeMonitor(optimizer, every=1, sinks=TensorBoard(name) if name == "board" else name):
        for t, folder in enumerate(("elsewhere", "..")):
            os.chdir(folder)
            train(optimizer, [t])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["elsewhere", name])
    assert [*(tmp_path / "elsewhere").iterdir()] == []
