"""`aida stepsizes`: what it reads, writes and says."""

from __future__ import annotations

import codecs
from math import nan
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aida.monitor import CSV, JSONL
from aida_bench.cli.app import app
from aida_bench.report.read_stepsizes import read_runs
from aida_bench.storage.files import to_json_lines
from helpers.bench.report_runs import result, write
from helpers.monitor_rows import run

FIGURES = ["capped", "cosine", "heat-map-mean", "histograms", "spread", "stepsizes", "update-ratio"]


def call(*words: object):
    return CliRunner().invoke(app, ["stepsizes", *map(str, words)])


def pngs(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.png"))


@pytest.fixture
def rows_file(tmp_path) -> Path:
    path = tmp_path / "monitor.jsonl"
    path.write_text(to_json_lines(run(3, (10, 20), time="step", spread=True)))
    return path


def test_a_monitors_file(rows_file, tmp_path):
    done = call(rows_file, "--svg", "--layers", "1,3", "--heat-map", "mean,cos")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "monitor-stepsizes"
    assert pngs(folder) == sorted([*FIGURES, "heat-map-cos"])
    assert sorted(path.stem for path in folder.glob("*.svg")) == pngs(folder)
    assert (folder / "stepsizes.html").exists()
    assert done.output.count("wrote ") == 2 * 8 + 1
    assert "left out" not in done.output
    assert not list(folder.glob(".*"))
    svg = (folder / "histograms.svg").read_text()
    assert "1 blocks.1.weight" in svg
    assert "2 blocks.2.weight" not in svg


def test_a_runs_folder_keeps_its_own_pictures_apart(tmp_path):
    write(tmp_path, [result("aida", seed, [0.5, 0.6], [0.5, 0.6], histogram=True) for seed in (0, 1)])
    run_folder = tmp_path / "aida" / "seed-0"
    done = call(run_folder)
    assert done.exit_code == 0, done.output
    assert pngs(run_folder) == []
    assert pngs(run_folder / "stepsizes") == ["heat-map-mean", "histograms", "spread", "stepsizes"]
    assert "left out cosine: no row has 'cos'." in done.output


def test_a_folder_of_runs_gives_a_column_for_each_optimizer_and_says_which_has_none(tmp_path):
    write(tmp_path, [
        result("aida", 0, [0.5], [0.5]), result("aida", 1, [0.6], [0.6], mean=100.0),
        result("adabelief", 0, [0.5], [0.5]), result("sgd", 0, [0.5], [0.5]),
    ])  # fmt: skip
    runs, without = read_runs([str(tmp_path)])
    assert (list(runs), without) == (["adabelief", "aida"], ["sgd"])
    assert {row["mean"] for row in runs["aida"] if row["layer"] == 1} == {300.0, 100.0}
    assert [row["cap"] for row in runs["aida"]] == [pytest.approx(316.2277, abs=1e-3)] * 4
    done = call(tmp_path)
    assert done.exit_code == 0, done.output
    assert "left out sgd: none of its rows has stepsizes." in done.output
    assert pngs(tmp_path / "stepsizes") == ["heat-map-mean", "spread", "stepsizes"]


def test_runs_side_by_side(tmp_path, monkeypatch):
    write(tmp_path / "a", [result("aida", 0, [0.5], [0.5])])
    write(tmp_path / "b", [result("aida", 0, [0.5], [0.5]), result("adamw", 0, [0.5], [0.5])])
    one, two = tmp_path / "a" / "aida" / "seed-0", tmp_path / "b"
    assert list(read_runs([str(one), str(two)])[0]) == ["aida a/aida/seed-0", "adamw", "aida b"]
    assert list(read_runs([f"slow={one}", str(two / "adamw")])[0]) == ["slow", "adamw"]
    assert list(read_runs([f"slow={two}", str(one)])[0]) == ["slow adamw", "slow aida", "aida"]
    monkeypatch.chdir(tmp_path)
    done = call("--compare", f"slow={one}", two)
    assert done.exit_code == 0, done.output
    assert pngs(tmp_path / "stepsizes") == ["heat-map-mean", "spread", "stepsizes"]
    done = call(one, two)
    assert (done.exit_code, done.stderr) == (2, "error: 2 runs: --compare puts them side by side.\n")


def test_a_monitors_own_files_say_the_same(tmp_path):
    rows = list(run(3, (10, 20), time="step"))
    rows[1]["cos"], rows[2]["mean"] = None, nan
    for sink in (JSONL(tmp_path / "monitor.jsonl"), CSV(tmp_path / "monitor.csv")):
        sink.write(rows)
    lines, table = (read_runs([str(tmp_path / f"monitor.{form}")])[0][""] for form in ("jsonl", "csv"))
    assert table[1] == {key: value for key, value in lines[1].items() if key not in ("histogram", "cos")}
    assert (table[2]["mean"], lines[2]["mean"]) == (None, None)
    assert table[5] == {key: value for key, value in rows[5].items() if key != "histogram"}
    done = call(tmp_path / "monitor.csv")
    assert done.exit_code == 0, done.output
    assert "left out histograms: no row has 'histogram'." in done.output


def test_a_file_that_is_still_being_written(rows_file):
    whole = read_runs([str(rows_file)])[0][""]
    rows_file.write_text(rows_file.read_text() + '{"kind": "stepsize", "st')
    assert read_runs([str(rows_file)])[0][""] == whole


def test_a_file_that_a_spreadsheet_saved(tmp_path):
    rows = list(run(2, (10,), time="step"))
    for form, sink in (("jsonl", JSONL), ("csv", CSV)):
        path = tmp_path / f"monitor.{form}"
        sink(path).write(rows)
        plain = read_runs([str(path)])
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b"\n", b"\r\n"))
        assert read_runs([str(path)]) == plain


def foreign(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def damaged(folder: Path) -> Path:
    (folder / "rows.jsonl").write_text('{"kind": "epoch"}\nnonsense\n{}\n')
    return folder / "rows.jsonl"


def number_list(folder: Path) -> Path:
    (folder / "rows.jsonl").write_text("[1]\n{}\n")
    return folder / "rows.jsonl"


def bad_csv(folder: Path) -> Path:
    (folder / "rows.csv").write_text("kind,mean\nstepsize,high\n")
    return folder / "rows.csv"


def empty(folder: Path) -> Path:
    (folder / "rows.jsonl").write_text("")
    return folder / "rows.jsonl"


def other(folder: Path) -> Path:
    (folder / "rows.txt").write_text("")
    return folder / "rows.txt"


def without_mean(folder: Path) -> Path:
    rows = [{"kind": "stepsize", "epoch": 1, "layer": 1, "parameter": "w"}]
    (folder / "rows.jsonl").write_text(to_json_lines(rows))
    return folder / "rows.jsonl"


def changed(folder: Path, **fields: object) -> Path:
    """A monitor's rows with other fields in the second line."""
    first, second, *others = run(2, (10, 20), time="step")
    (folder / "rows.jsonl").write_text(to_json_lines([first, {**second, **fields}, *others]))
    return folder / "rows.jsonl"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "nothing", "nothing does not exist: name a folder of"),
        (lambda folder: folder, "has no rows: it is no run's folder, and there is none below it."),
        (lambda folder: write(folder, [result("aida", 0, [], [], None)]), "has no rows yet: a run"),
        (lambda folder: write(folder, [result("sgd", 0, [0.5], [0.5])]), "no stepsizes in the rows of sgd: "),
        (damaged, "rows.jsonl, line 2 is not JSON (Expecting value"),
        (number_list, "rows.jsonl, line 1 is not a row but [1]: remove the line."),
        (bad_csv, "rows.csv, line 2: mean is 'high', which is no number: correct it."),
        (empty, "rows.jsonl has no rows yet."),
        (lambda folder: foreign(folder, "a.csv", b"kind,label\nstepsize,\xe9\n"), "a.csv is not UTF-8 ("),
        (lambda folder: foreign(folder, "a.jsonl", b'{"kind": "\xe9"}\n'), "save it as UTF-8."),
        (lambda folder: foreign(folder, "a.jsonl", '{"kind": 1}\n'.encode("utf-16")), "is not UTF-8 ("),
        (
            lambda folder: foreign(folder, "a.csv", "kind,step\nstepsize,²\n".encode()),
            "a.csv, line 2: step is '²', which is no number: correct it.",
        ),
        *((lambda folder, row=row: changed(folder, **row), f"rows.jsonl, line 2: {said}") for row, said in [
            ({"mean": "high"}, "mean is 'high', which is no number: correct it."),
            ({"cos": [0.5]}, "cos is [0.5], which is no number"),
            ({"step": "x"}, "step is 'x', which is no whole number"),
            ({"step": 1.5}, "step is 1.5, which is no whole number"),
            ({"layer": "1"}, "layer is '1', which is no whole number"),
            ({"cap": True}, "cap is True, which is no number"),
            ({"std": "9" * 99}, f"std is '{'9' * 39}…, which is no number"),
        ]),
        (lambda folder: changed(folder, layer=None), "rows.jsonl, line 2 has no layer: remove it."),
        (lambda folder: foreign(folder, "a.jsonl", b'"' + 99 * b"x" + b'"\n'), f'a row but "{39 * "x"}…: '),
        (lambda folder: foreign(folder, "a.csv", b"kind,layer\nstepsize,\n"), "line 2 has no layer"),
        (other, "rows.txt is neither a folder nor a .jsonl or .csv file of rows."),
        (without_mean, "nothing to draw: no row has 'mean' or 'std'; no row has 'mean'; no"),
    ],
)  # fmt: skip
def test_what_it_cannot_draw_ends_in_one_sentence(tmp_path, make, said):
    done = call(make(tmp_path))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--layers", "9"], "--layers 9: no run has it; the layers' numbers go to 3."),
        (["--layers", "²"], "--layers: '²' is not the number of a layer; give such as 2,11."),
        (["--layers", "one"], "--layers: 'one' is not the number of a layer; give such as 2,11."),
        (["--heat-map", "cosine"], "unknown measure 'cosine': did you mean cos? Valid: mean, std, "),
    ],
)
def test_options_that_name_nothing(rows_file, options, said):
    done = call(rows_file, *options)
    assert done.exit_code == 2
    assert said in done.stderr


def test_runs_of_two_tasks_are_not_mixed(tmp_path):
    write(tmp_path / "a", [result("aida", 0, [0.5], [0.5])])
    write(tmp_path / "b", [result("aida", 0, [9.0], [9.0], measure="perplexity", task="lm", model="lstm")])
    done = call(tmp_path)
    assert (
        "holds runs that cannot be compared (digits · cnn, lm · lstm): name the folder of one." in done.stderr
    )


@pytest.mark.parametrize("fields", [
    {"histogram": 5}, {"histogram": {}}, {"histogram": {"low": "x", "per_octave": 1, "counts": [1]}},
    {"histogram": {"low": 1.0, "per_octave": 0, "counts": [1]}}, {"run": 5, "parameter": ["w"]},
    {"note": "mine", "kind": "remark", "mean": "high"},
])  # fmt: skip
def test_fields_of_one_s_own_and_histograms_that_are_none_are_passed_over(tmp_path, fields):
    done = call(changed(tmp_path, **fields))
    assert done.exit_code == 0, done.output
    assert {"spread", "stepsizes"} <= set(pngs(tmp_path / "rows-stepsizes"))
