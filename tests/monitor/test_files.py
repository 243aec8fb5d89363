"""Files of rows: runs never mix, half a record never counts, nothing of the user's is overwritten."""

import csv
import json
import multiprocessing
import random
import sys
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import aida
from aida.monitor import CSV, JSONL, Memory, StepsizeMonitor, TensorBoard, WandB
from aida.monitor.plots.series import apart
from aida.monitor.sinks import needed
from aida_bench.report.read_stepsizes import read_runs
from helpers.members import train

SINKS = {"jsonl": JSONL, "csv": CSV}


def record(sink, steps=range(2), make=aida.Aida, saved=None, **more):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    optimizer = make(model.parameters(), lr=1e-2)
    if saved:
        optimizer.load_state_dict(saved)
    with StepsizeMonitor(optimizer, model, every=1, sinks=sink, **more) as monitor:
        train(optimizer, steps)
    return monitor, optimizer.state_dict()


def rows_of(path):
    text = path.read_text()
    assert text.endswith("\n")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    rows = list(csv.DictReader(text.splitlines()))
    assert all(None not in row and None not in row.values() for row in rows)
    return rows


@pytest.mark.parametrize("form", SINKS)
def test_a_script_that_is_run_again_makes_another_run(tmp_path, form):
    path = tmp_path / f"rows.{form}"
    for make in (aida.Aida, aida.Aida, torch.optim.AdamW):
        record(str(path), make=make)
    runs = list(dict.fromkeys(row["run"] for row in rows_of(path)))
    assert [run.split("-")[0] for run in runs] == ["Aida", "Aida", "AdamW"]
    assert len(set(runs)) == 3
    found, _ = read_runs([str(path)])
    assert list(found) == runs
    assert {len({row["cap"] for row in rows if row["kind"] == "stepsize"}) for rows in found.values()} == {1}


@pytest.mark.parametrize("form", SINKS)
def test_a_resumed_run_goes_on_under_its_own_name(tmp_path, form):
    path = tmp_path / f"rows.{form}"
    _, saved = record(path, range(3))
    record(path, range(3, 5), saved=saved)  # resumed
    record(path, range(3, 6), saved=saved)  # and once more from the same checkpoint: steps 4 and 5 anew
    assert len({row["run"] for row in rows_of(path)}) == 1
    (rows,) = read_runs([str(path)])[0].values()
    steps = [row["step"] for row in rows if row.get("layer") == 1]
    assert steps == [1, 2, 3, 4, 5, 6]
    record(path, range(3, 5), make=aida.LAdam)  # another optimizer, and one that starts anew
    record(path, range(2))
    assert len({row["run"] for row in rows_of(path)}) == 3


def test_a_run_of_another_model_or_far_ahead_is_not_gone_on_with(tmp_path):
    path = tmp_path / "rows.jsonl"
    _, saved = record(path, range(9))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]))  # its first step alone: eight were made elsewhere
    record(path, range(9, 10), saved=saved)
    assert len({row["run"] for row in rows_of(path)}) == 2


def test_the_users_own_name_for_a_run(tmp_path):
    for steps in (range(2), range(1)):
        record(tmp_path / "rows.csv", steps, run="mine")
    assert {row["run"] for row in rows_of(tmp_path / "rows.csv")} == {"mine"}


@pytest.mark.parametrize("form", SINKS)
def test_a_file_cut_anywhere_is_gone_on_with_from_its_last_whole_record(tmp_path, form):
    """Every cut of the last record: the rows before it stay, and all that is read is whole."""
    path = tmp_path / f"rows.{form}"
    record(path, range(3))
    whole = path.read_bytes()
    first = rows_of(path)
    draw = random.Random(0)
    for cut in [
        1,
        2,
        30,
        len(whole) - 1,
        len(whole) - 3,
        *(draw.randrange(1, len(whole)) for _ in range(25)),
    ]:
        path.write_bytes(whole[:-cut])
        closed = form == "jsonl" and cut == 1  # an editor's habit: nothing is lost
        told = pytest.warns(UserWarning, match="ended in half a record")
        with nullcontext() if closed or whole[:-cut].endswith(b"\n") else told:
            record(path, range(1))
        rows = rows_of(path)
        new = [row for row in rows if row["run"] != first[0]["run"]]
        kept = rows[: len(rows) - len(new)]
        if form == "csv" and kept and not kept[-1]["update_ratio"]:  # its last column, which may be cut
            kept[-1]["update_ratio"] = first[len(kept) - 1]["update_ratio"]
        assert kept == first[: len(kept)]
        assert len(new) == (5 if form == "jsonl" else 4)
        if form == "jsonl":
            assert len(kept) % 5 == 0, "half a record is left"
        else:
            assert len(kept) >= whole[:-cut].count(b"\n") - 1


@pytest.mark.parametrize("form", SINKS)
def test_zeros_after_a_loss_of_power_are_cut_off(tmp_path, form):
    path = tmp_path / f"rows.{form}"
    record(path)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(4096))
    with pytest.warns(UserWarning, match="last 4096 bytes are cut off"):
        record(path)
    assert path.read_bytes().startswith(whole)
    rows_of(path)


@pytest.mark.parametrize("text", ["step,loss\n1,2.5\n2,2", "my notes", '{"a": 1}\nnot rows at all'])
@pytest.mark.parametrize("form", SINKS)
def test_what_is_not_a_file_of_rows_is_left_alone(tmp_path, form, text):
    path = tmp_path / f"rows.{form}"
    path.write_text(text)
    with pytest.warns(UserWarning, match="ends in|begins with|has other columns"):
        record([path, Memory()])
    assert path.read_text() == text


def test_a_table_with_other_columns_is_left_alone_and_its_order_kept(tmp_path):
    path = tmp_path / "rows.csv"
    record(path)
    columns = path.read_text().splitlines()[0].split(",")
    old = "\n".join([",".join(c for c in columns if c not in ("run", "p_norm")), *["1," * 20] * 2]) + "\n"
    path.write_text(old)
    with pytest.warns(
        UserWarning, match=r"rows\.csv has other columns than these rows, which go to .*rows-2"
    ):
        record(path)
    assert path.read_text() == old
    assert len(rows_of(tmp_path / "rows-2.csv")) == 8
    path.write_text(",".join([*reversed(columns), "note"]) + "\n")
    record(path)
    rows = rows_of(path)
    assert (rows[0]["kind"], rows[0]["step"], rows[0]["note"]) == ("stepsize", "1", "")


@pytest.mark.parametrize("form", SINKS)
def test_modes(tmp_path, form):
    path = tmp_path / f"rows.{form}"
    record(SINKS[form](path, mode="x"))
    once = len(rows_of(path))
    with pytest.raises(FileExistsError, match='is there already: mode="a" appends'):
        SINKS[form](path, mode="x")
    sink = SINKS[form](path, mode="w")
    assert len(rows_of(path)) == once, "emptied before there is anything to write"
    record(sink, range(3))
    assert len(rows_of(path)) == once * 3 // 2
    record(SINKS[form](path))
    assert len(rows_of(path)) == once * 5 // 2
    with pytest.raises(ValueError, match=r'"a" to append.*not \'r\''):
        SINKS[form](path, mode="r")


def test_home_and_no_file_before_the_first_record(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    sinks = [JSONL("~/a.jsonl"), "~/b.csv", TensorBoard("~/board")]
    optimizer = aida.Aida([nn.Parameter(torch.ones(2))])
    monitor = StepsizeMonitor(optimizer, sinks=sinks)
    assert list(tmp_path.iterdir()) == []
    train(optimizer, range(1))
    monitor.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.csv", "board"]


def test_an_error_names_the_file():
    with pytest.warns(UserWarning, match=r"No space left on device: '/dev/full'"):
        record(JSONL("/dev/full"))


def append(path, number):
    sink = JSONL(path)
    for step in range(40):
        about = {"run": f"{number}", "step": step}
        sink.write([{"kind": "stepsize", **about, "x": "y" * 5000}, {"kind": "spread", **about}])


def test_processes_that_share_a_file_leave_it_whole(tmp_path):
    path = tmp_path / "rows.jsonl"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=append, args=(path, number)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(rows_of(path)) == 160
    assert {len(rows) for rows in apart(rows_of(path)).values()} == {80}


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ("rows.jsonl", ["JSONL"]),
        (["rows.csv", "memory"], ["CSV", "Memory"]),
        (Memory(), ["Memory"]),
        ("memory", ["Memory"]),
        ((), []),
    ],
)
def test_one_sink_or_several(given, kinds):
    optimizer = aida.Aida([nn.Parameter(torch.ones(2))])
    for name in ("sinks", "to"):
        monitor = StepsizeMonitor(optimizer, **{name: given})
        assert [type(sink).__name__ for sink in monitor.sinks] == kinds
        assert monitor.to is monitor.sinks


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (None, TypeError, "not None"),
        (3, TypeError, "not 3"),
        (JSONL, TypeError, "not <class"),
        (print, TypeError, "not <built-in"),
        ([None], TypeError, "not None"),
        ("rows.txt", ValueError, r"'rows.txt' is not a sink: a path must end in \.jsonl or \.csv"),
        ("", ValueError, "'' is not a sink"),
    ],
)
@pytest.mark.parametrize("name", ["sinks", "to"])
def test_what_is_no_sink_is_refused_when_the_monitor_is_made(given, error, said, name):
    optimizer = aida.Aida([nn.Parameter(torch.ones(2))])
    with pytest.raises(error, match=said):
        StepsizeMonitor(optimizer, **{name: given})
    assert not optimizer._optimizer_step_post_hooks


def test_an_open_file_and_two_names_are_refused(tmp_path):
    optimizer = aida.Aida([nn.Parameter(torch.ones(2))])
    with (tmp_path / "f.jsonl").open("w") as file, pytest.raises(TypeError, match="sinks are paths"):
        StepsizeMonitor(optimizer, sinks=[file])
    with pytest.raises(TypeError, match="`to` is the former name of `sinks`"):
        StepsizeMonitor(optimizer, sinks="a.csv", to="b.csv")
    with pytest.raises(TypeError, match=r"model is a torch\.nn\.Module"):
        StepsizeMonitor(optimizer, "Aida")
    with pytest.raises(TypeError, match="select is a function"):
        StepsizeMonitor(optimizer, select="weight")


@pytest.mark.parametrize(
    ("module", "use", "said"),
    [
        (
            "pandas",
            lambda: Memory().frame(),
            r'Memory\.frame needs pandas: pip install "aida-optim\[monitor\]"',
        ),
        ("tensorboard", lambda: TensorBoard("runs"), r"pip install tensorboard"),
        ("torch", lambda: TensorBoard("runs"), r"TensorBoard needs torch: pip install torch"),
        ("wandb", WandB, "WandB needs wandb: pip install wandb"),
    ],
)
def test_what_is_missing_says_what_to_install(monkeypatch, module, use, said):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=said):
        use()


def test_a_record_without_layers_leaves_a_table_alone(tmp_path):
    CSV(tmp_path / "rows.csv").write([{"kind": "spread", "step": 1, "layers": 0}])
    assert not (tmp_path / "rows.csv").exists()


def test_only_the_last_of_two_halves_of_records_is_cut_off(tmp_path):
    path = tmp_path / "rows.jsonl"
    halves = [{"kind": "stepsize", "run": run, "step": 1} for run in ("first", "second", "second")]
    path.write_text("".join(json.dumps(row) + "\n" for row in halves))
    whole = [{"kind": "stepsize", "run": "third", "step": 1}, {"kind": "spread", "run": "third", "step": 1}]
    with pytest.warns(UserWarning, match="ended in half a record"):
        JSONL(path).write(whole)
    assert [row["run"] for row in rows_of(path)] == ["first", "third", "third"]


def test_a_module_that_lacks_another_one_is_not_said_to_be_missing(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import of_which_there_is_nothing")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'of_which_there_is_nothing'"):
        needed("half_installed", "half-installed", "a test")


def test_a_layer_without_a_histogram_has_its_scalars_alone():
    logged = []

    class Writer:
        def add_scalar(self, tag, x, step):
            logged.append(tag)

        def add_histogram_raw(self, tag, **numbers):
            logged.append(tag)

        def flush(self):
            pass

    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = aida.Aida([("p", p), ("q", q)])
    with StepsizeMonitor(optimizer, every=1, sinks=TensorBoard(Writer())):
        p.grad, q.grad = torch.ones(2), torch.full((2,), torch.nan)
        optimizer.step()
    assert {"stepsize/p", "stepsize_mean/p", "stepsize_mean/q"} <= {*logged}
    assert "stepsize/q" not in logged


def test_a_run_without_a_histogram_logs_its_scalars_to_weights_and_biases():
    logged = []

    class Run:
        def define_metric(self, *names, **options):
            pass

        def log(self, values):
            logged.append(values)

    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = aida.Aida([("p", p), ("q", q)])
    with StepsizeMonitor(optimizer, every=1, sinks=WandB(Run())):
        p.grad, q.grad = torch.ones(2), torch.full((2,), torch.nan)
        optimizer.step()
    (values,) = logged
    assert sum(values["stepsizes/histogram/p"].histogram) == 2
    assert {"stepsizes/stepsize_mean/p", "stepsizes/stepsize_mean/q"} <= {*values}
    assert "stepsizes/histogram/q" not in values


@pytest.mark.parametrize("form", SINKS)
def test_a_file_that_is_replaced_or_not_there_has_no_run_to_go_on_with(tmp_path, form):
    path = tmp_path / f"rows.{form}"
    assert SINKS[form](path).last(None) is None
    _, saved = record(str(path))
    assert int(SINKS[form](path).last(None)["step"]) == 2
    assert SINKS[form](path, mode="w").last(None) is None
    first = rows_of(path)[0]["run"]
    record(SINKS[form](path, mode="w"), range(2, 4), saved=saved)
    assert first not in {row["run"] for row in rows_of(path)}
