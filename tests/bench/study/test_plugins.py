"""Optimizers and tasks from outside the package, from a folder that has nothing else."""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from importlib.metadata import EntryPoint

import pytest
import torch
from torch import nn

from aida_bench import plugins
from aida_bench.baselines import build_optimizer
from aida_bench.errors import UserError
from aida_bench.report.provenance import command
from aida_bench.report.read_rows import read_groups
from aida_bench.storage.files import read_json
from aida_bench.study.cells import TaskPlan, next_cells
from aida_bench.study.read import read_study
from aida_bench.study.records import read_records
from aida_bench.study.run import check_settings
from aida_bench.tasks import create_task, presets_of
from helpers.bench.command import invoke, refused
from helpers.bench.studies import ROOT, write


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty folder, where the command is started; what it imports is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "")
    yield tmp_path
    for name in ("own_optimizer", "own_task", "mistaken"):
        sys.modules.pop(name, None)


def test_a_study_of_one_s_own_optimizer_on_one_s_own_task(empty):
    for name in ("own_optimizer.py", "own_task.py", "own_study.toml"):
        shutil.copy(ROOT / "examples" / name, empty)
    small = (empty / "own_study.toml").read_text().replace("epochs = 10", "epochs = 2").replace("= 8", "= 2")
    (empty / "own_study.toml").write_text(small)
    result = invoke("study", "run", "own_study.toml", "--workers", 1, "--nice", 0)
    assert result.exit_code == 0, result.output
    ran = {path.parent.parent.name.split()[0] for path in (empty / "runs").rglob("done.json")}
    assert ran == {"lion", "aida", "adamw", "untrained"}
    (config, *_) = sorted((empty / "runs/study-own_study/spirals").glob("lion final-*/seed-0/config.json"))
    assert read_json(config)["optimizer"] == "own_optimizer:Lion"


def guide_s_studies():
    return re.findall(r"```toml\n(.*?)```", (ROOT / "docs/guide/studies.md").read_text(), re.DOTALL)


def test_the_guide_s_study_of_ten_lines(empty):
    text, _ = guide_s_studies()
    assert len(text.splitlines()) == 10 - 1
    for name in ("own_optimizer.py", "own_task.py"):
        shutil.copy(ROOT / "examples" / name, empty)
    assert "epochs = 10" in text
    assert "points = 8" in text
    (empty / "mine.toml").write_text(
        text.replace("epochs = 10", "epochs = 2").replace("points = 8", "points = 2")
    )
    assert invoke("study", "run", "mine.toml", "--workers", 1, "--nice", 0).exit_code == 0
    result = invoke("study", "report", "mine.toml")
    assert result.exit_code == 0, result.output
    page = (empty / "runs/study-mine/report/README.md").read_text()
    assert "All 15 runs have ended." in page
    assert re.search(r"\| spirals \| adamw \| 5 \| [+-]", page)


def test_the_guide_s_study_beside_the_published_one(empty):
    """From the committed rows its own runs alone are left: 19 points and 5 seeds on each of three tasks."""
    _, text = guide_s_studies()
    for folder in ("studies", "examples"):
        text = text.replace(f'"{folder}', f'"{(ROOT / folder).as_posix()}')
    (empty / "beside.toml").write_text(text)
    study = read_study(empty / "beside.toml")
    found = read_records(study)
    ready = next_cells(study, study.tasks, found)
    assert {cell.optimizer for cell in ready} == {"lion"}
    assert len(ready) == 3 * 19
    left = [cell for task in study.tasks for cell in TaskPlan(study, task, found).all_cells()]
    assert Counter(cell.stage for cell in left if cell.key not in found) == {"tune": 3 * 19, "final": 3 * 5}
    check_settings(study, ready, set())


def test_examples_are_short():
    for name in ("own_optimizer.py", "own_task.py"):
        assert len((ROOT / "examples" / name).read_text().splitlines()) < 40


def test_one_s_own_optimizer_in_a_comparison(empty):
    shutil.copy(ROOT / "examples/own_optimizer.py", empty)
    asked = ["--optimizers", "sgd,own_optimizer:Lion", "--epochs", 1, "--limit-batches", 1, "--model", "mlp"]
    result = invoke("compare", "digits", *asked, "--seeds", 1, "--out", "out", "--workers", 1)
    assert result.exit_code == 0, result.output
    assert (empty / "out/own_optimizer.Lion/seed-0/done.json").exists()
    assert "own_optimizer:Lion" in result.stdout


def test_a_task_of_one_s_own_takes_the_library_s_optimizers_and_one_s_own(empty):
    """With their own defaults, as it has no recipes; in each of the three commands."""
    for name in ("own_optimizer.py", "own_task.py"):
        shutil.copy(ROOT / "examples" / name, empty)
    more = ["--epochs", 1, "--workers", 1, "--device", "cpu", "--quiet"]
    for number, words in enumerate([
        ["compare", "own_task:Spirals", "--optimizers", "aida,adamw,own_optimizer:Lion", "--lr", 1e-3],
        ["sweep", "own_task:Spirals", "--grid", "lr=1e-3"],
        ["train", "own_task:Spirals", "--optimizer", "adamw", "--set", "weight_decay=0"],
    ]):  # fmt: skip
        result = invoke(*words, *more, "--out", number)
        assert result.exit_code == 0, result.output
        assert list((empty / str(number)).glob("*/seed-0/done.json"))
    configs = [read_json(path) for path in (empty / "0").glob("*/seed-0/config.json")]
    assert {each["optimizer"] for each in configs} == {"aida", "adamw", "own_optimizer:Lion"}
    assert all(each["settings"] == {"lr": 1e-3} for each in configs)
    (page,) = read_groups(empty / "0")
    assert "--optimizers adamw,aida,own_optimizer:Lion" in command(page)


@pytest.mark.parametrize(("words", "said"), [
    (["compare"], "no optimizers of its own to compare: name some with --optimizers"),
    (["compare", "--optimizers", "all"], "name some with --optimizers"),
    (["compare", "--optimizers", "adia"], "unknown optimizer 'adia': did you mean 'aida'?"),
    (["train", "--set", "xo=1"], "aida does not take {'xo': 1}"),
])  # fmt: skip
def test_what_a_task_of_one_s_own_does_not_take_is_one_sentence(empty, words, said):
    shutil.copy(ROOT / "examples/own_task.py", empty)
    refused(invoke(words[0], "own_task:Spirals", *words[1:], "--out", "out"), said)
    assert not (empty / "out").exists()


@pytest.mark.parametrize(("line", "said"), [
    ('splits = ("validation")', "splits of mistaken:Wrong is 'validation', no tuple of words: write ("),
    ('parts = ("")', 'parts of mistaken:Wrong is \'\', no tuple of words: write ("",), with its comma'),
    ("parts = None", "parts of mistaken:Wrong is None, no tuple of words"),
    ("higher = 3", "higher of mistaken:Wrong is 3, no tuple of words"),
    ("higher = ('gain', 3)", "higher of mistaken:Wrong is ('gain', 3), no tuple of words"),
    ('presets = ["small"]', "presets of mistaken:Wrong are ['small']: write a dictionary of"),
    ('presets = {"small": {"epochs": 1}}', "presets of mistaken:Wrong are {'small': {'epochs': 1}}: write"),
    ('presets = {"small": Preset((), 1, 64, 1, (), {})}', "each with a model or more"),
    ("pass\nWrong = Spirals(batch_size=64)", "mistaken:Wrong is <own_task.Spirals object"),
])  # fmt: skip
def test_a_task_of_one_s_own_with_a_mistake_is_one_sentence(empty, line, said):
    """Of a word in a tuple's place each letter would be a split; the others would be tracebacks."""
    shutil.copy(ROOT / "examples/own_task.py", empty)
    top = "from aida_bench.recipes import Preset\nfrom own_task import Spirals\nclass Wrong(Spirals):\n    "
    (empty / "mistaken.py").write_text(top + line + "\n")
    words = ["train", "mistaken:Wrong", "--optimizer", "adamw", "--epochs", 1, "--workers", 1, "--quiet"]
    refused(invoke(*words, "--out", "out"), said)


def test_what_cannot_be_imported_is_one_sentence(empty):
    refused(invoke("train", "digits", "--optimizer", "nowhere.optim:Lion"), "nowhere.optim:Lion cannot be",
            "install its package", "the folder that nowhere lies in")  # fmt: skip
    shutil.copy(ROOT / "examples/own_optimizer.py", empty)
    with pytest.raises(
        UserError, match=r"in own_optimizer \(.*own_optimizer\.py\) 'lion': did you mean Lion"
    ):
        build_optimizer("own_optimizer:lion", nn.Linear(1, 1))
    with pytest.raises(UserError, match="unknown task 'digit': did you mean digits"):
        create_task("digit")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def x(:", ["SyntaxError: invalid syntax", "broken.py, line 1"]),
        ("x = 1\n1 / 0", ["ZeroDivisionError: division by zero", "broken.py, line 2"]),
        ("import sys\nsys.exit(0)", ["SystemExit: 0", "broken.py, line 2"]),
        ("import nowhere_at_all", ["No module named 'nowhere_at_all'", "install its package"]),
    ],
)
@pytest.mark.parametrize("words", [["digits", "--optimizer", "broken:Lion"], ["broken:Task"]])
def test_a_file_that_cannot_be_imported_is_one_sentence_with_the_place(empty, code, said, words):
    (empty / "broken.py").write_text(code)
    refused(invoke("train", *words), "broken:", "cannot be imported", *said)
    assert "broken" not in sys.modules


@pytest.mark.parametrize("name", [":X", ".x:Y", "x:", "x..y:Z", "a:b:c", "x y:Z", "x:Y."])
def test_what_is_no_import_path_is_one_sentence(empty, name):
    refused(
        invoke("train", "digits", "--optimizer", name), f"{name} is no import path", "package.module:Name"
    )
    refused(invoke("train", name), f"{name} is no import path")


def test_a_file_of_one_s_own_comes_before_a_module_of_its_name(empty, monkeypatch):
    """Python itself has a module `this`, and one `json`, which is imported already."""
    for name in ("this", "json"):
        shutil.copy(ROOT / "examples/own_optimizer.py", empty / f"{name}.py")
    monkeypatch.delitem(sys.modules, "this", raising=False)
    before = list(sys.path)
    assert build_optimizer("this:Lion", nn.Linear(1, 1)).__module__ == "this"
    assert sys.path == [*before, str(empty)]
    with pytest.raises(UserError, match=r"unknown name in json \(.*json.__init__\.py\) 'Lion'"):
        build_optimizer("json:Lion", nn.Linear(1, 1))
    sys.modules.pop("this")


def test_optimizers_that_would_write_to_one_folder_are_refused(empty):
    asked = ["compare", "digits", "--optimizers", "a.b:c,a:b.c"]
    refused(invoke(*asked), "a.b:c and a:b.c would write to one folder", "--out")


def test_an_entry_point_is_a_name(empty, monkeypatch):
    for name in ("own_optimizer.py", "own_task.py"):
        shutil.copy(ROOT / "examples" / name, empty)
    points = {
        plugins.OPTIMIZERS: {"lion": EntryPoint("lion", "own_optimizer:Lion", plugins.OPTIMIZERS)},
        plugins.TASKS: {"spirals": EntryPoint("spirals", "own_task:Spirals", plugins.TASKS)},
    }
    monkeypatch.setattr(plugins, "installed", points.__getitem__)
    assert type(build_optimizer("lion", nn.Linear(1, 1), lr=0.1)).__name__ == "Lion"
    assert (
        create_task("spirals", model="default", batch_size=100, limit_batches=None).batches_per_epoch() == 6
    )
    assert presets_of("spirals").keys() == {"small", "study"}


def test_parameters_that_are_not_decayed_are_a_group_of_their_own(empty):
    shutil.copy(ROOT / "examples/own_optimizer.py", empty)
    model = nn.Linear(3, 2)
    model.weight.requires_grad_(True)
    built = build_optimizer("own_optimizer:Lion", model, weight_decay=0.1, no_decay="norms_and_biases")
    assert [group["weight_decay"] for group in built.param_groups] == [0.1, 0.0]
    assert built.param_groups[1]["params"][0] is model.bias
    assert len(build_optimizer("own_optimizer:Lion", model, weight_decay=0.1).param_groups) == 1


def test_the_monitor_measures_members_of_the_claims_study(empty):
    shutil.copy(ROOT / "studies/claims_members.py", empty)
    ablation = '[optimizers.rolled]\noptimizer = "claims_members:RolledDamping"\nsettings = { K = 2 }\n'
    ablation += 'tune = ["lr", "eps"]\n[optimizers.sgd]'
    path = write(empty, **{"[optimizers.sgd]": ablation})
    result = invoke("study", "run", path, "--workers", 1, "--nice", 0)
    assert result.exit_code == 0, result.output
    (rows, *_) = sorted(empty.glob("runs/study-tiny/digits/rolled final-*/seed-0/rows.jsonl"))
    assert rows.read_text().count('"kind": "stepsize"') == 2 * 2  # two weights, two epochs
    assert torch.get_num_threads() == 1
