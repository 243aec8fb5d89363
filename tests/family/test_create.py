"""Optimizers by name, presets, and what importing the library costs."""

import inspect
import subprocess
import sys

import pytest
import torch

import aida
from members import MEMBERS, parameters, train

FAMILY = [cls.__name__.lower() for cls in MEMBERS]


def model():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 1))


@pytest.mark.parametrize(
    ("name", "cls"),
    [*zip(FAMILY, MEMBERS, strict=True), ("LAdaBelief", aida.LAdaBelief), ("AdamW", torch.optim.AdamW),
     ("sgd", torch.optim.SGD), ("rmsprop", torch.optim.RMSprop)],
)  # fmt: skip
def test_a_name_gives_the_optimizer_with_its_arguments(name, cls):
    optimizer = aida.create_optimizer(name, model(), lr=0.25)
    assert type(optimizer) is cls
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_every_name_that_is_told_is_known():
    names = aida.optimizer_names()
    assert names[: len(FAMILY)] == sorted(FAMILY, key=names.index)
    assert set(FAMILY) <= set(names)
    assert {"adam", "adamw", "sgd", "lbfgs"} <= set(names)
    assert "optimizer" not in names
    for name in set(names) - {"sparseadam", "muon"}:  # which take no ordinary layers of every shape
        aida.create_optimizer(name, parameters([(3, 2)]))


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [("adia", "'aida'"), ("ladabelif", "'ladabelief'"), ("adam-w", "'adamw'"), ("0", "known are .*aida")],
)
def test_an_unknown_name_gets_the_nearest(wrong, hint):
    with pytest.raises(ValueError, match=f"unknown optimizer '{wrong}': .*{hint}"):
        aida.create_optimizer(wrong, model())


def decays(optimizer):
    return {n: g["weight_decay"] for g in optimizer.param_groups for n in g["param_names"]}


@pytest.mark.parametrize("source", [lambda m: m, lambda m: m.named_parameters()], ids=["model", "named"])
@pytest.mark.parametrize("name", ["aida", "adamw"])
def test_no_decay_spares_the_parameters_it_names(source, name):
    optimizer = aida.create_optimizer(name, source(model()), weight_decay=0.5, no_decay=("*.bias", "1.*"))
    assert decays(optimizer) == {
        "0.weight": 0.5, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "2.weight": 0.5, "2.bias": 0.0
    }  # fmt: skip
    train(optimizer, [0])


def test_one_pattern_may_be_a_string():
    assert decays(aida.create_optimizer("aida", model(), weight_decay=1.0, no_decay="*.bias"))["0.bias"] == 0


def test_all_or_no_parameters_may_be_spared():
    every = aida.create_optimizer("aida", model(), weight_decay=0.5, no_decay="*")
    assert set(decays(every).values()) == {0.0}
    with pytest.warns(UserWarning, match=r"no_decay=\('\*.bais',\) matches no parameter.*'0.weight'"):
        none = aida.create_optimizer("aida", model(), weight_decay=0.5, no_decay="*.bais")
    assert set(decays(none).values()) == {0.5}


def test_no_decay_needs_names():
    with pytest.raises(ValueError, match="needs parameter names: give the model itself"):
        aida.create_optimizer("aida", model().parameters(), no_decay="*.bias")


def test_frozen_parameters_of_a_model_are_left_out():
    net = model()
    net[0].requires_grad_(False)
    assert set(decays(aida.create_optimizer("aida", net))) == {"1.weight", "1.bias", "2.weight", "2.bias"}
    with pytest.raises(ValueError, match="no trainable parameter: every requires_grad is False"):
        aida.create_optimizer("aida", net.requires_grad_(False))


@pytest.mark.parametrize("cls", MEMBERS)
@pytest.mark.parametrize("preset", aida.presets)
def test_a_preset_builds_every_member(cls, preset):
    optimizer = cls(parameters(), **aida.presets[preset])
    train(optimizer, range(2))
    assert optimizer.param_groups[0].items() >= aida.presets[preset].items()


def test_the_papers_settings():
    assert aida.presets["cifar"].items() >= {"weight_decay": 5e-4, "eps": 1e-8}.items()
    assert aida.presets["transformer"].items() >= {"betas": (0.9, 0.98), "eps": 1e-16}.items()


@pytest.mark.parametrize("cls", MEMBERS)
def test_a_signature_shows_every_argument_and_its_default(cls):
    shown = {n: p.default for n, p in inspect.signature(cls).parameters.items()}
    assert shown.items() >= cls(parameters()).defaults.items()
    assert ("K" in shown) == ("Aida" in cls.__name__)


PROGRAM = """
import sys
import torch
before = set(sys.modules)
import {module}
own = {{"aida", *sys.stdlib_module_names}}
print(*(name for name in set(sys.modules) - before if name.split(".")[0] not in own))
"""


def loaded_by(module):
    """What importing it loads that torch has not: other packages, and parts of torch that it leaves out."""
    command = [sys.executable, "-c", PROGRAM.format(module=module)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.processes
def test_importing_loads_nothing_beside_torch():
    assert loaded_by("aida") == []
    assert "torch.distributed.tensor" in loaded_by("torch.distributed.tensor")  # negative control
