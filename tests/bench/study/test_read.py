"""What a study's file may not say, and what is said of it."""

from __future__ import annotations

import pytest

from aida_bench.errors import UserError
from aida_bench.study.read import read_study
from helpers.bench.studies import TINY, write

WRONG = [
    ("points = 3", "pionts = 3", r"unknown key of \[tuning\] in study.toml 'pionts': did you mean points"),
    ("points = 3\n", "", r"\[tuning\] in study.toml lacks points: add a line points"),
    ("points = 3", 'points = "three"', "points in .*'three': write a whole number"),
    ("points = 3", "points = true", "True: write a whole number"),
    ("points = 3", "points = 0", "points above 0"),
    ("points = 3", "points = -1", "cannot be below 0"),
    ("fraction = 0.5", "fraction = 1.5", "fraction above 0, at most 1"),
    ("seeds = [100]", "seeds = 100", r"seeds in \[tuning\] of study.toml is 100: write a list, \[100\]"),
    ("seeds = [100]", "seeds = [1]", "tunes on seed 1, which is a final one"),
    ("lr = [1e-3, 1e-1]", "lr = [1e-1, 1e-3]", "two numbers above 0"),
    ("lr = [1e-3, 1e-1]", "lr = 1e-3", "two numbers above 0"),
    ("[final]", "[finals]", "unknown key of the file in study.toml 'finals': did you mean final"),
    ('tune = ["lr", "eps"]', 'tune = ["lr", "esp"]', "no range in .* 'esp': did you mean eps"),
    ('settings_from = "aida"', 'settings_from = "adia"', "settings_from of .* 'adia': did you mean aida"),
    ('settings_from = "aida"', 'settings_from = "aida"\ntune = ["lr"]', "is tuned and has settings_from"),
    ("phase = 2", 'phase = 2\ntasks = ["digit"]', "'digit': did you mean digits"),
    ("phase = 2", "phase = 0", "has phase 0, its settings_from 1: raise"),
    ("[optimizers.sgd]", '[optimizers."a/b"]', "names folders: leave out /"),
    ("[space]", "[comparisons]\nof = \"aida\"\nprimary = [\"sdg\"]\n[space]", "'sdg': did you mean sgd"),
    ("[space]", '[sweeps.x]\noptimizer = "aid"\nkey = "eps"\nvalues = [1]\n[space]', "'aid': did you mean"),
    ("[tasks.digits]", "tasks = 3\n[task.digits]", "unknown key of the file|no table of tables"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), WRONG)
def test_a_wrong_file_is_one_sentence_with_the_fix(tmp_path, old, new, said):
    with pytest.raises(UserError, match=said):
        read_study(write(tmp_path, **{old: new}))


def test_what_is_no_file_and_no_toml(tmp_path):
    with pytest.raises(UserError, match="is not a file: name a study's TOML"):
        read_study(tmp_path / "none.toml")
    path = write(tmp_path, TINY + "\nx = [")
    with pytest.raises(UserError, match="is not TOML"):
        read_study(path)


def test_labels_are_the_names_unless_others_are_given(tmp_path):
    study = read_study(write(tmp_path))
    assert study.optimizers["sgd"].optimizer == "sgd"
    assert (study.optimizers["like-aida"].optimizer, study.optimizers["like-aida"].recipe) == (
        "adabelief",
    ) * 2
    assert study.tasks["digits"].task == "digits"
    assert study.about.name == "tiny"
    assert read_study(write(tmp_path, TINY.replace('name = "tiny"', ""))).about.name == "study"


def test_a_sweep_is_an_optimizer_for_each_value(tmp_path):
    sweep = (
        '[sweeps.eps]\noptimizer = "aida"\nkey = "eps"\nvalues = [1e-8, 1]\nseeds = [7]\nphase = 2\n[space]'
    )
    study = read_study(write(tmp_path, **{"[space]": sweep}))
    swept = study.optimizers["aida eps=1e-08"]
    assert (swept.settings, swept.settings_from, swept.seeds, swept.phase) == ({"eps": 1e-8}, "aida", (7,), 2)
    assert study.optimizers["aida eps=1"].optimizer == "aida"
