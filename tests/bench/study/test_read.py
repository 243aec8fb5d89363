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
    ("points = 3", "points = 0", "points in .* is 0: write a number above 0"),
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
    *((key, f"{key}\n{line}", said) for key, line, said in (
        ("epochs = 2", "epoch_seconds = 0", "epoch_seconds in .* is 0: write a number above 0"),
        ("epochs = 2", "epoch_seconds = inf", "must be finite"),
        ('name = "tiny"', "core_hours = nan", "must be finite"),
        ('name = "tiny"', "threads = 0", "threads in .* is 0: write a number above 0"),
        ("points = 3", "widening_factor = inf", "must be finite"),
        ("points = 3", 'widened = ["lrr"]', "which no optimizer tunes, 'lrr': did you mean lr"),
        ("phase = 2", "seeds = []", "seeds of an optimizer or sweep .* is an empty list"),
        ("phase = 2", "seeds = [99999999999]", "seed 99999999999 is above 4294967295"),
        ("phase = 2", "tasks = []", "tasks of .* is an empty list"),
        ("phase = 2", 'recipe = "adamww"', "recipe of .*, on digits, 'adamww': did you mean adamw"),
        ("phase = 2", "settings = { x = 2020-01-01 }", "x in .* is 2020-01-01: write a finite number"),
        ("phase = 2", "settings = { betas = [0.9, inf] }", "betas in settings .* write a finite number"),
    )),
    ("epochs = 2", "epochs = 0", "epochs in .* is 0: write a number above 0"),
    ("limit_batches = 2", "limit_batches = 0", "limit_batches in .* is 0: write a number above 0"),
    ('preset = "small"', 'preset = "smal"', "preset of .* 'smal': did you mean small"),
    ("seeds = [0, 1]", "seeds = [0, 1, 0]", "seeds in .* has 0 twice: leave one of them out"),
    ("seeds = [100]", "seeds = []", r"seeds of \[tuning\] .* is an empty list"),
    ("lr = [1e-3, 1e-1]", "lr = [1e-3, inf]", "lr in .space. .* must be finite"),
    ("[space]", "[published]\nseeds = [0]\npreset = \"papr\"\n[space]", "'papr': did you mean paper"),
    ("[space]", "[published]\nseeds = [5, 5]\n[space]", "has 5 twice"),
    ("[space]", "[comparisons]\nof = \"aida\"\nprimary = [\"aida\"]\n[space]", "compares aida with itself"),
    ("[space]", "[comparisons]\nof = \"aida\"\nprimary = [\"sgd\", \"sgd\"]\n[space]", "'sgd' twice"),
    ("[optimizers.sgd]", '[optimizers."a\\nb"]', "cannot be printed: leave out line ends"),
    ('name = "tiny"', 'name = "ti\\nny"', "cannot be printed"),
    ("[space]", '[claims."c\\nd"]\nkind = "competitive"\nsays = "x"\nof = "aida"\nagainst = ["sgd"]\n[space]',
     "claims.'c.+ cannot be printed"),
    ('name = "tiny"', 'name = "../b"', "names folders: leave out /"),
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
    assert study.optimizers["like-aida"].optimizer == "adabelief"
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


CLAIM = '[claims.c]\nkind = "competitive"\nsays = "x"\nof = "aida"\nagainst = ["sgd"]\n[space]'
SWEEP = '[sweeps.{}]\noptimizer = "aida"\nkey = "eps"\nvalues = [{}]\n'


@pytest.mark.parametrize(("old", "new", "said"), [
    ('against = ["sgd"]', 'against = ["aida"]', "compares aida with itself"),
    ('"competitive"', '"compact"\nablations = ["aida"]', "compares aida with itself"),
    ('kind = "competitive"', 'kind = "within-margin"\npairs = [["sgd", "sgd"]]', "'sgd' twice"),
])  # fmt: skip
def test_a_claim_compares_different_optimizers(tmp_path, old, new, said):
    read_study(write(tmp_path, **{"[space]": CLAIM}))
    path = write(tmp_path, **{"[space]": CLAIM.replace(old, new)})
    with pytest.raises(UserError, match=said):
        read_study(path)


def test_a_compact_claim_has_one_rival(tmp_path):
    claim = CLAIM.replace('"competitive"', '"compact"').replace('["sgd"]', '["sgd", "like-aida"]')
    with pytest.raises(UserError, match="has 2 rivals: write a compact claim for each"):
        read_study(write(tmp_path, **{"[space]": claim}))


def test_a_claim_is_of_optimizers_that_share_a_task(tmp_path):
    claim = CLAIM.replace('["sgd"]', '["sgd", "like-aida"]')
    apart = {
        "phase = 2": 'phase = 2\ntasks = ["digits"]',
        "[optimizers.sgd]": '[optimizers.sgd]\ntasks = ["more"]',
        "[space]": f'[tasks.more]\ntask = "digits"\npreset = "small"\n{claim}',
    }
    with pytest.raises(
        UserError, match=r"on no task do all optimizers of \[claims.c\] in study.toml take part"
    ):
        read_study(write(tmp_path, **apart))


def test_a_task_has_an_optimizer(tmp_path):
    only = 'tasks = ["digits"]'
    text = TINY.replace("[space]", '[tasks.more]\ntask = "digits"\npreset = "small"\n[space]')
    for label in ("aida", "sgd", "like-aida"):
        text = text.replace(f"[optimizers.{label}]", f"[optimizers.{label}]\n{only}")
    with pytest.raises(UserError, match=r"no optimizer of study.toml takes part in \[tasks.more\]"):
        read_study(write(tmp_path, text))


def test_values_of_sweeps_do_not_meet(tmp_path):
    """In each other's labels, nor in an optimizer's, however near they are; whole numbers stay whole."""
    near = SWEEP.format("near", "1.0000001e-3, 1.0000002e-3, 1e-8, 100.0, 1e6")
    study = read_study(write(tmp_path, **{"[space]": near + "[space]"}))
    assert len(study.swept) == 5
    assert "aida eps=1e-08" in study.swept
    assert "aida eps=100" in study.swept
    whole = SWEEP.format("K", "0, 1").replace('"eps"', '"K"')
    study = read_study(write(tmp_path, **{"[space]": whole + "[space]"}))
    assert [type(study.optimizers[label].settings["K"]) for label in sorted(study.swept)] == [int, int]
    for other in (SWEEP.format("two", "1e-8, 1e-9"), '[optimizers."aida eps=1e-08"]\noptimizer = "aida"\n'):
        with pytest.raises(UserError, match="a run 'aida eps=1e-08', which another sweep or an optimizer"):
            read_study(write(tmp_path, **{"[space]": near + other + "[space]"}))
    with pytest.raises(UserError, match="twice"):
        read_study(write(tmp_path, **{"[space]": SWEEP.format("x", "1e-8, 1e-8") + "[space]"}))


def test_a_file_may_begin_with_a_byte_order_mark_and_name_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path, **{'name = "tiny"': 'name = "tiny"\nfolder = "~/runs"\nrows = "~/rows"'})
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    study = read_study(path)
    assert (study.folder, study.rows_folder) == (tmp_path / "runs", tmp_path / "rows")
