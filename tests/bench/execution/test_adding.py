"""What a run's identity is and is not, and what may be added to a comparison that has ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from aida_bench.cli import run_options as cli_options
from aida_bench.errors import UserError
from aida_bench.execution import cores
from aida_bench.execution import job as jobs
from aida_bench.execution import plan as compare
from aida_bench.execution.plan import ExecutionOptions, OptimizerSpec, Plan
from aida_bench.storage.files import read_json, read_json_lines
from aida_bench.storage.run import CARRIED_OUT, IDENTITY, Run
from aida_bench.tasks.digits import Digits
from aida_bench.training.random_state import random_states, set_random_states
from helpers.bench.command import invoke, refused
from helpers.bench.runs import CONFIG, Killed, go

ASK = ["compare", "digits", "--model", "mlp", "--limit-batches", "2", "--device", "cpu", "--quiet"]


def ask(out: Path, optimizers: str = "sgd", seeds: int = 1, epochs: int = 1, *more: object):
    options = ["--optimizers", optimizers, "--seeds", seeds, "--epochs", epochs, "--out", out, *more]
    return invoke(*ASK, *options)


def done(*asked) -> None:
    result = ask(*asked)
    assert result.exit_code == 0, result.output


def plan(**changes) -> Plan:
    chosen = {"epochs": 1, "batch_size": 32, "limit_batches": 1, "device": "cpu", "precision": "32",
              "threads": None, **changes}  # fmt: skip
    return Plan("digits", "small", "mlp", [OptimizerSpec("sgd", "sgd", {"lr": 0.1})], [0], **chosen)


def test_every_part_of_a_configuration_is_identity_or_is_not(tmp_path):
    (job,) = plan().jobs(tmp_path, ExecutionOptions())
    assert set(job.config) | {"workers"} == {*IDENTITY, *CARRIED_OUT}
    assert not list(tmp_path.iterdir())


OTHER = {
    "task": "mnist", "preset": "paper", "model": "cnn", "optimizer": "sgd", "settings": {"lr": 2e-3},
    "seed": 4, "epochs": 2, "batch_size": 16, "limit_batches": None, "device": "cuda:0", "precision": "bf16",
    "devices": 2, "strategy": "ddp",
}  # fmt: skip


@pytest.mark.parametrize("key", IDENTITY)
def test_another_identity_is_another_run(tmp_path, key):
    Run(tmp_path, CONFIG)
    with pytest.raises(UserError, match=rf"config\.json belongs to another run: its {key} is "):
        Run(tmp_path, {**CONFIG, key: OTHER[key]})


@pytest.mark.parametrize("change", [{"threads": 2}, {"workers": 3}, {"epochs": 4}])
def test_what_is_no_identity_goes_on(tmp_path, change):
    Run(tmp_path, CONFIG)
    assert Run(tmp_path, {**CONFIG, **change}).begun == CONFIG


def test_a_run_on_one_device_of_a_kind_goes_on_on_another(tmp_path):
    Run(tmp_path, {**CONFIG, "device": "cuda:1"})
    Run(tmp_path, {**CONFIG, "device": "cuda:0"})
    with pytest.raises(UserError, match="its device is 'cuda:1', not 'cpu'"):
        Run(tmp_path, CONFIG)


def test_a_run_keeps_its_threads_unless_others_are_asked_for(tmp_path):
    torch.set_num_threads(2)
    (job,) = plan().jobs(tmp_path, ExecutionOptions())
    assert job.config["threads"] == 2
    Run(job.folder, job.config)
    torch.set_num_threads(1)
    assert plan().jobs(tmp_path, ExecutionOptions())[0].config["threads"] == 2
    assert plan(threads=3).jobs(tmp_path, ExecutionOptions())[0].config["threads"] == 3


def test_seeds_and_optimizers_are_added_to_a_comparison_that_has_ended(tmp_path, monkeypatch):
    """One run alone takes torch's threads, several take one each: no reason to refuse the first."""
    torch.set_num_threads(2)
    monkeypatch.setattr(cores, "cores", lambda: 1)
    out, whole = tmp_path / "out", tmp_path / "whole"
    done(out, "sgd", 1)
    kept = (out / "sgd/seed-0/rows.jsonl").stat().st_mtime_ns
    done(out, "sgd", 3, 1, "--resume")
    done(out, "aida", 2, 1, "--resume")
    rows = read_json_lines(out / "rows.jsonl")
    ran = [(row["optimizer"], row["seed"]) for row in rows if row["kind"] == "epoch"]
    assert ran == [("aida", 0), ("aida", 1), ("sgd", 0), ("sgd", 1), ("sgd", 2)]
    assert (out / "sgd/seed-0/rows.jsonl").stat().st_mtime_ns == kept
    done(out, "sgd,aida", 3, 1, "--resume", "--threads", 1)
    done(whole, "sgd,aida", 3, 1, "--threads", 1)
    order = [
        [(row["optimizer"], row["seed"], row["kind"]) for row in read_json_lines(folder / "rows.jsonl")]
        for folder in (out, whole)
    ]
    assert order[0] == order[1]


@pytest.fixture
def steady(monkeypatch):
    monkeypatch.setattr(Digits, "lr_factor", lambda self, step, steps, epochs: 1.0)


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("shorter", [1, 2, 3])
def test_epochs_are_added_from_the_checkpoint_and_the_rows_are_those_of_the_longer_run(tmp_path, shorter):
    went: list[int] = []
    go(tmp_path / "long", epochs=4)
    go(tmp_path / "run", epochs=shorter)
    assert go(tmp_path / "run", lambda now: went.append(now.epoch), epochs=4) == "finished"
    assert (tmp_path / "run/rows.jsonl").read_bytes() == (tmp_path / "long/rows.jsonl").read_bytes()
    # The last epoch of the shorter run is trained again, because a task may do more at a run's last.
    assert sorted(set(went)) == list(range(shorter, 5))
    assert read_json(tmp_path / "run/config.json", "")["epochs"] == 4
    assert go(tmp_path / "run", epochs=4) == "finished"


@pytest.mark.usefixtures("steady")
def test_a_run_that_was_killed_while_it_became_longer_goes_on(tmp_path):
    def kill(now):
        raise Killed

    go(tmp_path / "long", epochs=4)
    go(tmp_path / "run", epochs=2)
    with pytest.raises(Killed):
        go(tmp_path / "run", kill, epochs=4)
    with pytest.raises(UserError, match="its epochs is 4, not 2"):
        go(tmp_path / "run", epochs=2)
    assert go(tmp_path / "run", epochs=4) == "finished"
    assert (tmp_path / "run/rows.jsonl").read_bytes() == (tmp_path / "long/rows.jsonl").read_bytes()


def test_a_run_without_its_checkpoints_is_not_begun_anew(tmp_path):
    go(tmp_path / "run", epochs=2, keep=0)
    rows = (tmp_path / "run/rows.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"no checkpoint from which its 2 epochs can become 3 \(--keep-ch"):
        go(tmp_path / "run", epochs=3)
    assert go(tmp_path / "run", epochs=2) == "finished"
    assert (tmp_path / "run/rows.jsonl").read_bytes() == rows


def test_a_run_whose_learning_rate_would_have_been_another_is_not_made_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(Digits, "lr_factor", lambda self, step, steps, epochs: 1 - step / (steps * epochs))
    go(tmp_path / "run", epochs=2)
    with pytest.raises(UserError, match="from 2 to 3 epochs: the learning rate of epoch 1 is another"):
        go(tmp_path / "run", epochs=3)
    assert go(tmp_path / "run", epochs=2) == "finished"


@pytest.mark.usefixtures("steady")
def test_a_diverged_run_stays_so_in_a_longer_one(tmp_path):
    settings = {"optimizer": "sgd", "settings": {"lr": 1e30}}
    assert go(tmp_path, epochs=2, **settings) == "diverged"
    rows = read_json_lines(tmp_path / "rows.jsonl")
    assert go(tmp_path, epochs=3, **settings) == "diverged"
    assert read_json_lines(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize(
    "wrong",
    [
        ["--device", "warp"],
        ["--device", "cuda:97"],
        ["--seeds", "2", "--first-seed", 2**32 - 1],
        ["--lr", "-1"],
        ["--model", "x"],
        ["--optimizers", "x"],
    ],
)
def test_what_is_refused_leaves_nothing_and_the_next_resume_takes_what_has_runs(tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    result = invoke(*ASK, "--limit-batches", "2", "--epochs", "1", *wrong)
    assert result.exit_code == 2, result.output
    assert not list(tmp_path.iterdir())
    begun, empty = Path("runs/digits-1"), Path("runs/digits-2")
    Run(begun / "sgd" / "seed-0", {})
    empty.mkdir()
    Path("runs/digits-²").mkdir()
    assert cli_options.results_folder("digits", None, resume=True) == begun
    assert cli_options.results_folder("digits", None, resume=False) == Path("runs/digits-3")


def test_commands_that_begin_at_one_time_have_folders_of_their_own(tmp_path, monkeypatch):
    """One that only looked for a free number would give it to all that look before a folder is made."""
    monkeypatch.chdir(tmp_path)
    found = [cli_options.results_folder("digits", None, resume=resume) for resume in (False, True, False)]
    assert found == [Path(f"runs/digits-{number}") for number in (1, 2, 3)]
    monkeypatch.setattr(Path, "glob", lambda *_: iter([]))  # what it saw just before others were faster
    assert cli_options.results_folder("digits", None, resume=False) == Path("runs/digits-4")


def test_a_conflict_is_seen_before_any_folder_is_made(tmp_path):
    done(tmp_path, "sgd", 1, 2)
    refused(ask(tmp_path, "aida,sgd", 1, 1, "--resume"), "its epochs is 2, not 1")
    assert not (tmp_path / "aida").exists()


def test_random_states_are_those_of_the_run_s_device_alone(monkeypatch):
    """Two GPUs then, one now: there is no state of the second to be set."""
    states = {0: torch.tensor([7]), 1: torch.tensor([8])}

    class Generators:
        get_rng_state = staticmethod(lambda device: states[device.index])
        set_rng_state = staticmethod(lambda state, device: states.__setitem__(device.index, state))

    monkeypatch.setattr(torch, "get_device_module", lambda device: Generators)
    then = random_states(torch.device("cuda", 1))
    del states[1]
    set_random_states(then, torch.device("cuda", 0))
    assert states == {0: torch.tensor([8])}


def test_workers_are_as_many_as_the_process_may_use(tmp_path, monkeypatch):
    def quota(files: dict[str, str], affinity: int = 16) -> int:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(affinity)), raising=False)
        return cores.cores(root)

    v2 = {"proc/self/cgroup": "0::/pod/box\n"}
    v1 = {"proc/self/cgroup": "5:devices:/\n4:cpu,cpuacct:/pod\n0::/\n"}
    assert quota({}) == 16
    assert quota({}, affinity=3) == 3
    assert quota({**v2, "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n"}) == 16
    assert quota({**v2, "sys/fs/cgroup/pod/box/cpu.max": "250000 100000\n"}) == 2
    assert quota({**v2, "sys/fs/cgroup/pod/cpu.max": "400000 100000\n"}) == 4
    assert quota({**v2, "sys/fs/cgroup/cpu.max": "50000 100000\n"}) == 1
    assert quota({**v2, "sys/fs/cgroup/cpu.max": "nonsense\n"}) == 16
    for mount, folder in (("cpu", "pod/"), ("cpu,cpuacct", ""), ("cpu", "")):
        files = {"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"}
        assert quota({**v1, **{f"sys/fs/cgroup/{mount}/{folder}{n}": t for n, t in files.items()}}) == 3
    files["cpu.cfs_quota_us"] = "-1\n"
    assert quota({**v1, **{f"sys/fs/cgroup/cpu/{n}": t for n, t in files.items()}}) == 16
    monkeypatch.setattr(cores, "cores", lambda: 5)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    many = Plan(**{**plan().__dict__, "seeds": range(9)})
    assert (many.workers(None), many.workers(7), plan().workers(None)) == (5, 7, 1)


def test_the_kept_bytes_are_shared_by_all_runs(tmp_path):
    assert [job.keep for job in plan().jobs(tmp_path, ExecutionOptions())] == [compare.CHECKPOINT_BYTES]
    many = Plan(**{**plan().__dict__, "seeds": range(1000)})
    assert {job.keep for job in many.jobs(tmp_path, ExecutionOptions())} == {compare.CHECKPOINT_BYTES / 1000}
    assert plan().jobs(tmp_path, ExecutionOptions(keep=True))[0].keep == float("inf")
    assert json.loads(json.dumps(CONFIG)) == CONFIG
    assert jobs.Job(tmp_path, CONFIG).keep == float("inf")
