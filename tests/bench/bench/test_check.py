"""`aida bench check`: what has moved is seen, noise is not, and a kind without a result is named."""

import copy
import json
import subprocess

import numpy as np
import pytest
from typer.testing import CliRunner

from aida_bench.bench import check, machine
from aida_bench.bench import step as bench
from aida_bench.cli.app import app

CANDIDATES, MODELS = ("Aida", "AdaBelief", "LAdam", "LAida"), ("a", "b", "c", "d", "e")
MACHINE = {
    "vendor": "GenuineIntel", "family": "6", "model": "143", "isa": "AVX512", "cpu": "Xeon",
    "accelerator": None,
}  # fmt: skip
KIND = "GenuineIntel family 6 model 143, AVX512, 2 thread(s), torch 2.15"


def result(rng, factors=(), noise=0.03, of_run=0.005, rounds=10):
    """A made result: ratios of rounds, which differ by noise, and of cells, which differ from run to run."""
    rows = []
    for name in CANDIDATES:
        for place, model in enumerate(MODELS):
            factor = dict(factors).get((name, model), 1.0)
            middle = (0.9 + 0.1 * place) * factor * np.exp(of_run * rng.standard_normal())
            drawn = middle * np.exp(noise * rng.standard_normal(rounds))
            rows.append({
                "model": model, "threads": 2, "optimizer": name, "backend": "fused", "moments": "float32",
                "ratio": float(np.median(drawn)), "quartiles": [0.0, 1.0], "rounds": drawn.tolist(),
            })  # fmt: skip
    return {"machine": dict(MACHINE), "versions": {"torch": "2.15.0+cu132"}, "results": rows}


def moved(then, now):
    return [change for change in check.changes(then, now) if change.slower or change.faster]


@pytest.mark.parametrize("of_run", [0.0, 0.005, 0.01])
def test_noise_is_no_alarm(of_run):
    """Of runs without a change at most one in twenty raises any alarm; the draws are always the same.

    Nor where a cell differs by 1 % from one run to the next, whatever its rounds say.
    """
    rng = np.random.default_rng(0)
    alarms = [bool(moved(result(rng, of_run=of_run), result(rng, of_run=of_run))) for _ in range(200)]
    assert sum(alarms) <= 10


def test_without_its_margin_and_correction_noise_would_be():
    """A control: this many intervals of 95 % apart raise an alarm in most runs."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(20):
        then, now = result(rng, of_run=0), result(rng, of_run=0)
        a, b = check._cells(then), check._cells(now)
        alarms += any(check.paired_interval(b[place], a[place]).excludes_zero for place in a)
    assert alarms >= 10


@pytest.mark.parametrize(
    ("factors", "model"),
    [
        ({("Aida", model): 1.1 for model in MODELS}, check.EVERY),  # all models a little
        ({("Aida", "b"): 1.2}, "b"),  # one by more
    ],
)
@pytest.mark.parametrize("faster", [False, True])
def test_what_has_moved_is_seen_and_named(factors, model, faster):
    rng = np.random.default_rng(1)
    seen = others = 0
    for _ in range(20):
        then, now = result(rng), result(rng, factors)
        found = moved(now, then) if faster else moved(then, now)
        right = [change for change in found if (change.name, change.model) == ("Aida, fused", model)]
        assert all(change.faster if faster else change.slower for change in right)
        seen += bool(right)
        others += any(change.name != "Aida, fused" for change in found)
    assert seen >= 19
    assert others <= 1


def test_a_change_says_by_how_much():
    rng = np.random.default_rng(2)
    found = moved(result(rng, of_run=0), result(rng, {("Aida", m): 1.5 for m in MODELS}, of_run=0))
    overall = next(change for change in found if change.model == check.EVERY)
    assert overall.factor == pytest.approx(1.5, rel=0.02)
    assert overall.low <= 1.5 <= overall.high
    assert "times" in str(overall)
    assert 0.02 < check.resolution(found) < 0.1


def test_what_can_no_longer_be_timed_is_missing():
    then = result(np.random.default_rng(0))
    now = copy.deepcopy(then)
    del now["results"][0]["rounds"]
    now["results"][0]["left_out"] = "no such kernel"
    assert check.missing(then, now) == ["Aida, fused, a: no such kernel"]
    assert check.missing(then, then) == []


def test_a_kind_is_processor_instructions_threads_and_torch():
    one = result(np.random.default_rng(0))
    assert machine.kind(one) == KIND
    for changes in ({"isa": "AVX2"}, {"model": "1"}, {"accelerator": "GPU"}):
        assert machine.kind({**one, "machine": {**MACHINE, **changes}}) not in (KIND, None)
    assert machine.kind({**one, "versions": {"torch": "2.16.0"}}) != KIND
    assert machine.kind({**one, "versions": {"torch": "2.15.1"}}) == KIND
    assert machine.kind({**one, "machine": {"cpu": "AMD EPYC"}}) is None


def test_this_machine_has_a_kind(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text(
        "vendor_id\t: X\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Y Z\n\nvendor_id : other\n"
    )
    assert machine.cpu_info(info) == {
        "vendor_id": "X",
        "cpu family": "6",
        "model": "143",
        "model name": "Y Z",
    }
    assert machine.cpu_info(tmp_path / "none") == {}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder of committed results; git is told nothing of the user's."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "x")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "x@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    folder = tmp_path / "step"
    folder.mkdir()

    def git(*words):
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)

    def commit(name, made, date):
        (folder / name).write_text(json.dumps(made))
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"{date} +0000")
        git("add", name)
        git("commit", "-qm", name)

    git("init", "-q")
    return folder, commit


def test_the_last_committed_result_of_the_kind_is_taken(repository):
    folder, commit = repository
    rng = np.random.default_rng(0)
    older, newer, other = (result(rng) for _ in range(3))
    other["machine"]["isa"] = "AVX2"
    commit("b-newer.json", newer, 2_000_000_000)
    commit("a-older.json", older, 1_900_000_000)
    commit("c-other.json", other, 2_100_000_000)
    name, found = check.committed(folder, KIND)
    assert (name, found) == ("b-newer.json", newer)
    (folder / "b-newer.json").write_text(json.dumps(older))
    subprocess.run(["git", "add", "."], cwd=folder, check=True)  # and not committed
    assert check.committed(folder, KIND)[1] == newer


def test_a_kind_without_a_result_is_named(repository):
    folder, commit = repository
    earlier = result(np.random.default_rng(0))
    earlier["machine"] = {"cpu": "AMD EPYC", "accelerator": None}
    commit("step.json", earlier, 2_000_000_000)
    with pytest.raises(check.UserError, match=r"AVX512, 2 thread.*aida bench step --out.*step.json: a kind"):
        check.committed(folder, KIND)


def run(monkeypatch, folder, now):
    monkeypatch.setattr(machine, "machine", lambda device: dict(MACHINE))
    monkeypatch.setattr("aida_bench.storage.environment.versions", lambda: {"torch": "2.15.3"})
    monkeypatch.setattr(bench, "step_benchmark", lambda **given: now)
    return CliRunner().invoke(app, ["bench", "check", "--results", str(folder)], terminal_width=300)


def test_the_command_ends_with_what_it_found(repository, monkeypatch):
    folder, commit = repository
    rng = np.random.default_rng(0)
    then = result(rng)
    commit("step.json", then, 2_000_000_000)
    done = run(monkeypatch, folder, result(rng))
    assert done.exit_code == 0, done.output
    assert f"24 comparisons with step.json ({KIND}): 0 slower" in done.output
    done = run(monkeypatch, folder, result(rng, {("LAdam", model): 1.3 for model in MODELS}))
    assert done.exit_code == 1
    assert "slower: LAdam, fused, all models" in done.output
    done = run(monkeypatch, folder, result(rng, {("LAdam", model): 0.7 for model in MODELS}))
    assert done.exit_code == 0
    assert "faster: LAdam, fused, all models" in done.output


def test_the_command_fails_where_there_is_nothing_to_compare_with(tmp_path, monkeypatch):
    done = run(monkeypatch, tmp_path, None)
    assert done.exit_code == 2
    assert "commit a result there first" in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_moments_of_8_bits_are_left_out():
    then, now = (result(np.random.default_rng(0), factors=[(("Aida", "a"), x)]) for x in (1.0, 1.5))
    assert moved(then, now)
    for row in (*then["results"], *now["results"]):
        row["moments"] = "int8" if row["optimizer"] == "Aida" else row["moments"]
    assert moved(then, now) == []
    assert (
        check.missing(then, {**now, "results": [r for r in now["results"] if r["moments"] != "int8"]}) == []
    )
