"""The command in strange terminals, folders, homes and disks: no training is lost by what comes after it."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import pytest

from aida_bench.__main__ import main
from aida_bench.cli import conclusion
from aida_bench.data import fetch
from aida_bench.errors import UserError
from aida_bench.report import figures
from aida_bench.seeds import LAST_SEED
from aida_bench.settings import read_grid, read_settings, write_setting
from aida_bench.storage import environment
from aida_bench.storage.environment import PLACE
from aida_bench.storage.files import read_json
from helpers.bench.command import invoke, refused

RUN = ["--model", "mlp", "--epochs", "1", "--limit-batches", "2", "--threads", "1", "--workers", "1",
       "--device", "cpu"]  # fmt: skip
COMPARE = ["compare", "digits", "--optimizers", "sgd,aida", "--seeds", "2", *RUN]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "out"
    result = invoke(*COMPARE, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def said(monkeypatch, encoding: str, *arguments: object) -> tuple[int, str]:
    """The exit code of the whole command, and what it writes to an output of this encoding."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["aida", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        main()
    out.flush()
    return int(ended.value.code or 0), out.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_output_is_said_in_every_encoding(trained, monkeypatch, encoding):
    code, text = said(monkeypatch, encoding, *COMPARE, "--out", trained, "--resume")
    assert code == 0, text
    assert ("★" if encoding == "utf-8" else "* ") in text
    assert ("+-" if encoding == "ascii" else "±") in text
    assert text.count("wrote ") == 3
    for arguments in (
        ["report", trained, "--markdown"],
        ["report", trained, "--latex"],
        ["-h"],
        ["data", "list"],
    ):
        code, text = said(monkeypatch, encoding, *arguments)
        assert (code, text.strip() != "") == (0, True)


@pytest.mark.parametrize("name", ["[red]", "a[", "a:b:c", "b]", "x[/y]", "[/]", "ü ★"])
def test_folders_with_signs_of_markup(trained, tmp_path, name):
    out = tmp_path / name
    shutil.copytree(trained, out)
    result = invoke(*COMPARE, "--out", out, "--resume")
    assert result.exit_code == 0, result.output
    assert f"wrote {out / 'rows.jsonl'}\n" in result.stdout
    assert f"wrote {out / 'report.html'}\n" in invoke("report", out).stdout
    refused(invoke(*COMPARE, "--out", out), f"{out} is not empty")


def test_figures_need_no_latex(trained, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with matplotlib.rc_context({"text.usetex": True}):
        for arguments in (
            [*COMPARE, "--out", trained, "--resume"],
            ["report", trained],
            ["stepsizes", trained],
        ):
            result = invoke(*arguments)
            assert result.exit_code == 0, result.output


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [FULL, RuntimeError("no font\nat all"), MemoryError()])
@pytest.mark.parametrize("what", ["rows", "figures"])
def test_what_cannot_be_written_after_the_training_is_told_below_the_table(trained, monkeypatch, error, what):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(*((conclusion, "write_text") if what == "rows" else (figures, "save_figure")), fail)
    result = invoke(*COMPARE, "--out", trained, "--resume")
    assert result.exit_code == 2
    assert "★" in result.stdout
    assert "wrote " in result.stdout  # the other
    assert result.stderr.startswith("error: every run ended, but not all was written (")
    assert result.stderr.count("\n") == 1
    assert str(trained) in result.stderr


class Gone(io.RawIOBase):
    """An output that takes nothing."""

    def __init__(self, code: int) -> None:
        self.code = code

    def writable(self) -> bool:
        return True

    def write(self, _) -> int:
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ENOSPC])
def test_an_output_that_has_gone_or_is_full_loses_no_file(trained, tmp_path, monkeypatch, capfd, code):
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    for path in (*out.glob("*.png"), out / "rows.jsonl"):
        path.unlink()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Gone(code), encoding="utf-8", write_through=True))
    monkeypatch.setattr(sys, "argv", ["aida", *map(str, COMPARE), "--out", str(out), "--resume"])
    monkeypatch.setattr(os, "dup2", lambda *_: None)  # what rich would do to this process's output
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (1, 2)
    assert "Traceback" not in capfd.readouterr().err
    assert (out / "rows.jsonl").read_bytes() == (trained / "rows.jsonl").read_bytes()
    assert len(list(out.glob("*.png"))) == 2


def test_a_reader_that_has_enough_ends_a_command_without_a_word(trained, monkeypatch, capfd):
    monkeypatch.setattr(
        sys, "stdout", io.TextIOWrapper(Gone(errno.EPIPE), encoding="utf-8", write_through=True)
    )
    monkeypatch.setattr(sys, "argv", ["aida", "report", str(trained), "--markdown"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capfd.readouterr().err == ""


def test_a_folder_whose_name_is_not_utf_8(trained, tmp_path, monkeypatch):
    """Torch writes no checkpoint there; what was written elsewhere is reported."""
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff"))
    refused(invoke(*COMPARE, "--out", odd / "out"), "is not in UTF-8", "choose another --out")
    assert not odd.exists()
    shutil.copytree(trained, odd)
    code, text = said(monkeypatch, "utf-8", "report", odd)
    assert code == 0, text
    assert "<h1>r?</h1>" in (odd / "report.html").read_text(encoding="utf-8")


def test_another_run_there_that_is_damaged_does_not_lose_the_table(trained, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    (out / "aida" / "seed-1" / "config.json").write_text("")
    alone = ["compare", "digits", "--optimizers", "sgd", "--seeds", "2", *RUN]
    result = invoke(*alone, "--out", out, "--resume")
    assert result.exit_code == 0, result.output
    assert "★" in result.stdout
    assert result.stderr.count("\n") == 1
    assert "left out: " in result.stderr
    assert "seed-1/config.json is empty" in result.stderr


def test_home_is_where_it_says_or_not_needed(trained, tmp_path, monkeypatch):
    monkeypatch.delenv("AIDA_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "mine")
    for arguments in ([*COMPARE, "--out", "~/mine", "--resume"], ["report", "~/mine"],
                      ["stepsizes", "x=~/mine", "--out", "~/drawn"]):  # fmt: skip
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
        assert f"wrote {tmp_path}" in result.stdout
    monkeypatch.setenv("AIDA_DATA", "~/data")
    assert fetch.cache_folder("x") == tmp_path / "data" / "x"
    assert not (tmp_path / "~").exists()
    # No HOME, and a user of whom the machine knows nothing, as in a container.
    monkeypatch.delenv("AIDA_DATA")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}["uid"])
    assert invoke(*COMPARE, "--out", "mine", "--resume").exit_code == 0
    refused(invoke(*COMPARE, "--out", "~/mine"), "no home folder", "without ~")
    quick = ["--workers", "1", "--out", "m", "--quiet"]
    refused(invoke("compare", "mnist", *quick), "no folder for data", "AIDA_DATA")
    refused(invoke("data", "list"), "no folder for data", "AIDA_DATA")
    refused(invoke("data", "verify"), "no folder for data", "AIDA_DATA")


@pytest.mark.parametrize("command", [[], ["compare"], ["train"], ["sweep"], ["report"], ["stepsizes"],
                                     ["data"], ["data", "verify"], ["bench", "step"]])  # fmt: skip
def test_short_help(command):
    result = invoke(*command, "-h")
    assert (result.exit_code, "Usage" in result.stdout, "--help" in result.stdout) == (0, True, True)


def test_version_and_completion():
    from importlib.metadata import version

    assert invoke("--version").stdout == f"aida {version('aida-optim')}\n"
    assert "--install-completion" in invoke("-h").stdout


@pytest.mark.parametrize(
    "command",
    [
        ["train", "digits", "--seed", 2**32],
        ["train", "digits", "--seed", 10**30],
        ["compare", "digits", "--seeds", 3, "--first-seed", 2**32 - 2],
        ["sweep", "digits", "--grid", "lr=1", "--first-seed", 2**32],
    ],
)
def test_seeds_that_no_generator_takes(tmp_path, command):
    refused(invoke(*command, "--out", tmp_path / "out"), "seed ", f"above {LAST_SEED}", "smaller")
    assert not (tmp_path / "out").exists()


def test_the_largest_seed_trains(tmp_path):
    result = invoke("train", "digits", "--seed", LAST_SEED, *RUN, "--quiet", "--out", tmp_path)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "digits", "--lr", "inf"],
        ["train", "digits", "--optimizer", "sgd", "--set", "momentum=nan"],
        ["sweep", "digits", "--optimizers", "sgd", "--grid", "lr=1e-3,inf"],
    ],
)
def test_settings_that_are_not_finite_are_refused(tmp_path, command):
    """JSON has none: a run's configuration would be no JSON, and nan not what it was begun with."""
    refused(invoke(*command, "--out", tmp_path / "out"), "cannot be given", "a finite number")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("word", "value"),
    [("lr=1e-3", 1e-3), ("K=2", 2), ("betas=0.9:0.99", (0.9, 0.99)), ("betas=0.9,0.99", (0.9, 0.99)),
     ("maximize=true", True), ("maximize=False", False), ("foreach=none", None),
     ("layerwise=post", "post")],
)  # fmt: skip
def test_settings_of_every_form(word, value):
    (found,) = read_settings([word]).values()
    assert (found, type(found)) == (value, type(value))
    key = word.partition("=")[0]
    assert read_settings([f"{key}={write_setting(found)}"]) == {key: found}


def test_a_grid_of_pairs():
    assert read_grid(["betas=0.9:0.99,0.8:0.9", "lr=1"]) == {"betas": [(0.9, 0.99), (0.8, 0.9)], "lr": [1]}
    for word in ("betas=0.9,0.99", "betas=0.9", "lr=", "lr", "lr=x", "betas=0.9:"):
        with pytest.raises(UserError, match=r"write it as lr|joined by a colon"):
            read_grid([word])
    with pytest.raises(UserError, match="lr is given twice"):
        read_grid(["lr=1", "lr=2"])


def test_a_pair_is_trained_with_and_several_values_are_refused_with_the_command_for_them(tmp_path):
    out = tmp_path / "out"
    several = invoke("train", "digits", "--set", "lr=1e-3,3e-3", "--out", out)
    refused(several, "lr=0.001,0.003 has 2 values", "aida sweep TASK --grid lr=0.001,0.003")
    assert not out.exists()
    result = invoke("train", "digits", *RUN, "--set", "betas=0.8:0.95", "--out", out)
    assert result.exit_code == 0, result.output
    assert read_json(out / "aida/seed-0/config.json")["settings"]["betas"] == [0.8, 0.95]
    assert invoke("train", "digits", *RUN, "--set", "betas=0.8,0.95", "--out", out, "--resume").exit_code == 0
    swept = invoke("sweep", "digits", *RUN, "--grid", "betas=0.8:0.95,0.9:0.99", "--out", tmp_path / "swept")
    assert swept.exit_code == 0, swept.output
    assert {path.name for path in (tmp_path / "swept").glob("aida*")} == {
        "aida betas=0.8:0.95", "aida betas=0.9:0.99",
    }  # fmt: skip


CHILD = """
import os, sys, time
from pathlib import Path
from aida_bench.execution import torchrun as launch
launch.end_with_launcher()
Path(sys.argv[1], os.environ["RANK"]).write_text(str(os.getpid()))
time.sleep(300)
"""
PARENT = """
import signal, sys
from aida_bench.execution import torchrun as launch
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores, and with it all that it starts
signal.signal(signal.SIGINT, signal.default_int_handler)  # and a shell's & does
launch.COMMAND = (sys.executable, "-c", sys.argv[1])
sys.exit(launch.launch(sys.argv[2:], 2))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGKILL"])
def test_the_processes_of_several_devices_end_with_the_command(tmp_path, name):
    number = getattr(signal, name)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(tmp_path)], stderr=subprocess.DEVNULL)
    started = [tmp_path / rank for rank in "01"]
    wait_for(lambda: all(path.exists() and path.read_text() for path in started))
    parent.send_signal(number)
    assert parent.wait(60) in (-number, 128 + number, 1)
    wait_for(lambda: not any(runs_still(int(path.read_text())) for path in started))


def wait_for(holds, seconds: float = 100) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def runs_still(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_commit_is_ours_and_not_that_of_a_repository_we_are_installed_in(tmp_path, monkeypatch):
    def commit(package: Path) -> str | None:
        monkeypatch.setattr(environment, "__file__", str(package / "environment.py"))
        return environment._commit()

    def made(package: str, tracked: bool) -> Path:
        repository = tmp_path / f"{package.replace('/', '-')}-{tracked}"
        (repository / package).mkdir(parents=True)
        (repository / package / "environment.py").write_text("")
        (repository / "theirs.py").write_text("")
        git = ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x@example.org"]
        for words in (["init", "-q"], ["add", "." if tracked else "theirs.py"], ["commit", "-qm", "x"]):
            subprocess.run([*git, *words], check=True)
        return repository / package

    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("GIT_DIR")
    assert commit(made(".venv/lib/site-packages/aida_bench/storage", tracked=False)) is None
    assert commit(made("vendored/aida_bench/storage", tracked=True)) is None
    assert commit(made(PLACE, tracked=False)) is None
    ours = made(PLACE, tracked=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert len(commit(ours) or "") == 40
