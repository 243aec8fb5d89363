"""StepsizeMonitor in a loop: when it records, where rows go, and that it leaves training alone."""

import copy
import csv
import json
import re
import resource

import numpy
import pandas
import pytest
import torch
from torch import nn
from torch.nn import Parameter

import aida
from aida.integrations.watching import Watching
from aida.monitor import CSV, JSONL, Memory, StepsizeMonitor, TensorBoard, layer_stepsizes
from helpers.members import assert_bitwise, parameters, set_gradients, snapshot, train


def model_and_optimizer(cls=aida.Aida):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    return model, cls(model.parameters(), lr=1e-2)


def steps_of(monitor):
    return sorted({row["step"] for row in monitor.rows})


def test_records_the_first_step_and_every_so_many():
    model, optimizer = model_and_optimizer()
    with StepsizeMonitor(optimizer, model, every=3) as monitor:
        train(optimizer, range(7))
        expected = layer_stepsizes(optimizer, model)
        train(optimizer, [7, 8])
    assert steps_of(monitor) == [1, 3, 6, 9]
    assert [row["parameter"] for row in monitor.rows[:4]] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert monitor.rows[4]["kind"] == "spread"
    last = [{key: x for key, x in row.items() if key != "run"} for row in monitor.rows[-5:-1]]
    assert last == layer_stepsizes(optimizer, model) != expected
    train(optimizer, range(20))
    assert steps_of(monitor) == [1, 3, 6, 9], "a closed monitor watches on"


def test_training_is_bitwise_the_same_with_a_monitor():
    found = []
    for watched in (False, True):
        _, optimizer = model_and_optimizer()
        monitor = StepsizeMonitor(optimizer, every=1) if watched else None
        train(optimizer, range(5))
        found.append(snapshot(optimizer))
        if monitor:
            monitor.close()
    assert_bitwise(*found)


def test_select_names_and_numbers_what_is_measured():
    model, optimizer = model_and_optimizer()
    with StepsizeMonitor(optimizer, model, every=1, select=lambda name, p: p.ndim > 1) as monitor:
        train(optimizer, [0])
    assert [(row["layer"], row["parameter"]) for row in monitor.rows[:2]] == [
        (1, "0.weight"),
        (2, "2.weight"),
    ]
    assert monitor.rows[-1]["layers"] == 2


def test_a_frame_for_pandas():
    model, optimizer = model_and_optimizer()
    with StepsizeMonitor(optimizer, model, every=2) as monitor:
        train(optimizer, range(4))
    frame = monitor.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.pivot(index="step", columns="parameter", values="mean").shape == (3, 4)
    assert list(monitor.frame("spread")["step"]) == [1, 2, 4]
    silent = StepsizeMonitor(optimizer, to=[])
    with pytest.raises(ValueError, match=r"add Memory\(\)"):
        silent.frame()


def test_steps_go_on_from_a_checkpoint():
    _, optimizer = model_and_optimizer()
    train(optimizer, range(5))
    saved = copy.deepcopy(optimizer.state_dict())
    _, again = model_and_optimizer()
    with StepsizeMonitor(again, every=2) as monitor:
        again.load_state_dict(saved)
        train(again, range(5, 9))
        assert steps_of(monitor) == [6, 8]
        again.load_state_dict(saved)
        train(again, range(5, 6))
    assert [row["step"] for row in monitor.rows if row["kind"] == "spread"] == [6, 8, 6]


def test_a_file_of_json_and_a_table(tmp_path):
    model, optimizer = model_and_optimizer()
    lines, table = tmp_path / "new" / "rows.jsonl", tmp_path / "rows.csv"
    with StepsizeMonitor(optimizer, model, every=1, to=[JSONL(lines), CSV(table), Memory()]) as monitor:
        train(optimizer, range(2))
    assert [json.loads(line) for line in lines.read_text().splitlines()] == monitor.rows
    with table.open(newline="") as file:
        read = list(csv.DictReader(file))
    kept = [row for row in monitor.rows if row["kind"] == "stepsize"]
    assert [float(row["mean"]) for row in read] == [row["mean"] for row in kept]
    assert set(read[0]) == set(kept[0]) - {"histogram"}


def test_numbers_that_are_not_finite_are_null_in_json(tmp_path):
    p = Parameter(torch.ones(2))
    optimizer = aida.AdaBelief([p])
    p.grad = torch.tensor([torch.nan, 1.0])
    with StepsizeMonitor(optimizer, every=1, to=[JSONL(tmp_path / "rows.jsonl")]):
        optimizer.step()
    row = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0], parse_constant=pytest.fail)
    assert (row["mean"], row["g_norm"]) == (None, None)


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model, optimizer = model_and_optimizer()
    with StepsizeMonitor(optimizer, model, every=2, to=[TensorBoard(tmp_path), Memory()]) as monitor:
        train(optimizer, range(4))
    events = EventAccumulator(str(tmp_path)).Reload()
    expected = [row["mean"] for row in monitor.to[1].rows if row.get("parameter") == "2.weight"]
    assert [e.value for e in events.Scalars("stepsize_mean/2.weight")] == pytest.approx(expected, rel=1e-6)
    assert [e.step for e in events.Scalars("stepsize_spread/ratio")] == [1, 2, 4]
    histogram = events.Histograms("stepsize/0.weight")[-1].histogram_value
    assert histogram.num == 12
    assert sum(histogram.bucket) == 12


@pytest.mark.processes
def test_weights_and_biases(tmp_path, monkeypatch):
    import wandb

    from aida.monitor import WandB

    model, optimizer = model_and_optimizer()
    early = WandB()
    with (
        pytest.warns(UserWarning, match=r"WandB could not write the record of step 1.*wandb\.init\(\)"),
        StepsizeMonitor(optimizer, model, every=2, sinks=early),
    ):
        train(optimizer, range(1))
    model, optimizer = model_and_optimizer()
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(mode="offline", dir=str(tmp_path))
    logged, log = [], run.log
    monkeypatch.setattr(run, "log", lambda values: (logged.append(values), log(values)))
    with StepsizeMonitor(optimizer, model, every=2, to=[WandB()]):
        train(optimizer, range(2))
    run.finish()
    assert [values["stepsizes/step"] for values in logged] == [1, 2]
    assert 0 < logged[-1]["stepsizes/stepsize_mean/0.weight"] < 317
    assert sum(logged[-1]["stepsizes/histogram/0.weight"].histogram) == 12


class Broken:
    def __init__(self):
        self.tries = 0

    def write(self, rows):
        self.tries += 1
        raise OSError(28, "No space left on device")


def test_a_sink_that_fails_warns_once_and_the_others_go_on():
    _, optimizer = model_and_optimizer()
    broken, memory = Broken(), Memory()
    with (
        pytest.warns(
            UserWarning, match="Broken could not write the record of step 1.*No space left"
        ) as caught,
        StepsizeMonitor(optimizer, every=1, to=[broken, memory]),
    ):
        train(optimizer, range(3))
    assert len(caught) == 1
    assert broken.tries == 3
    assert {row["step"] for row in memory.rows} == {1, 2, 3}


@pytest.mark.parametrize("sink", [JSONL, CSV])
def test_a_record_is_written_whole_or_not_at_all(tmp_path, sink):
    _, optimizer = model_and_optimizer()
    path = tmp_path / "rows"
    monitor = StepsizeMonitor(optimizer, every=1, to=[sink(path)])
    train(optimizer, [0])
    whole = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, limits[1]))
    try:
        with pytest.warns(UserWarning, match="File too large"):
            train(optimizer, [1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == whole
    train(optimizer, [2])
    monitor.close()
    assert path.read_bytes().startswith(whole)
    assert b"\n" in path.read_bytes()[len(whole) :]


def test_a_full_disk_does_not_stop_training():
    _, optimizer = model_and_optimizer()
    warned = pytest.warns(UserWarning, match="JSONL could not write")
    with warned as caught, StepsizeMonitor(optimizer, every=1, to=[JSONL("/dev/full")]):
        train(optimizer, range(3))
    assert len(caught) == 1


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "10", numpy.float64(2), numpy.True_])
def test_every_is_a_number_of_steps(every):
    _, optimizer = model_and_optimizer()
    with pytest.raises(ValueError, match=re.escape(f"1 or more, not {every!r}")):
        StepsizeMonitor(optimizer, every=every)


@pytest.mark.parametrize("every", [numpy.int64(2), numpy.uint8(2), torch.tensor(2)])
def test_every_may_be_any_kind_of_integer(every):
    _, optimizer = model_and_optimizer()
    with StepsizeMonitor(optimizer, every=every) as monitor:
        train(optimizer, range(4))
    assert steps_of(monitor) == [1, 2, 4]
    assert type(monitor.every) is int
    callback = Watching(every, "memory", None, False, None)
    assert type(callback.arguments["every"]) is int


def test_what_cannot_be_watched_is_refused_with_the_way_out():
    params = parameters()
    with pytest.raises(TypeError, match=r"stepsizes of SGD are not known.*DEFINITIONS"):
        StepsizeMonitor(torch.optim.SGD(params))
    with pytest.raises(TypeError, match="not Linear"):
        StepsizeMonitor(nn.Linear(1, 1))
    model, optimizer = model_and_optimizer()

    class Wrapper:
        def __init__(self, inner):
            self.optimizer = inner

    with pytest.raises(TypeError, match=r"not Wrapper; give its \.optimizer"):
        StepsizeMonitor(Wrapper(optimizer))
    with aida.release_gradients(optimizer, model):
        with pytest.raises(ValueError, match=r"layer_stepsizes.*after backward"):
            StepsizeMonitor(optimizer)
        model(torch.ones(1, 4)).sum().backward()
        rows = layer_stepsizes(optimizer, model)
    assert [row["cos"] for row in rows] == [None] * 4
    assert all(0 < row["mean"] < 317 for row in rows)


def test_layers_without_gradients_are_left_out_until_they_have_some():
    used, later = parameters([(3,), (2,)])
    optimizer = aida.Aida([used, later])
    with StepsizeMonitor(optimizer, every=1) as monitor:
        optimizer.step()
        set_gradients([used], 0)
        optimizer.step()
        set_gradients([used, later], 1)
        optimizer.step()
    found = [(row.get("parameter"), row["step"]) for row in monitor.rows]
    assert found == [("0", 1), (None, 1), ("0", 2), ("1", 2), (None, 2)]


def test_names_lose_what_wrappers_put_before_them():
    model = nn.Sequential(nn.Linear(2, 2))
    optimizer = aida.Aida(model.parameters())
    train(optimizer, [0])
    compiled = torch.compile(model, backend="eager")
    assert [r["parameter"] for r in layer_stepsizes(optimizer, compiled)] == ["0.weight", "0.bias"]
