"""Hyperparameters of a rule's own: in groups under their names, with ranges; and classes that cannot be."""
# ruff: noqa: E501 - messages are searched for in one piece

import copy
import io
import re
from typing import ClassVar

import numpy as np
import pytest
import torch

import aida
from aida import Hyperparameter
from helpers.edits import everything
from helpers.members import assert_bitwise, parameters, set_gradients, snapshot, train
from helpers.own_members import Damped, made


def test_hyperparameters_are_in_groups_and_signatures_under_their_own_names():
    optimizer = Damped(
        [{"params": parameters()[:1], "power": np.float32(0.25)}, {"params": parameters()[1:]}], power=2
    )
    assert [group["power"] for group in optimizer.param_groups] == [0.25, 2.0]
    assert [type(group["power"]) for group in optimizer.param_groups] == [float, float]
    assert Damped.rule_arguments == ("power", "side")
    assert Damped.sums == ("gg", "mm")
    assert Damped.own == {"power": 1.0, "side": "both"}
    assert Damped.__signature__.parameters["power"].default == 1.0
    assert not optimizer.state


def at_construction(value):
    Damped(parameters(), power=value)


def in_a_group(value):
    Damped([{"params": parameters(), "power": value}])


def in_an_added_group(value):
    optimizer = Damped(parameters()[:1])
    try:
        optimizer.add_param_group({"params": parameters()[1:], "power": value})
    finally:
        assert len(optimizer.param_groups) == 1


def loaded(value):
    state = Damped(parameters()).state_dict()
    state["param_groups"][0]["power"] = value
    Damped(parameters(), power=0.5).load_state_dict(state)


def set_by_a_scheduler(value):
    optimizer = Damped(parameters())
    train(optimizer, range(1))
    optimizer.param_groups[0]["power"] = value
    before = everything(optimizer)
    try:
        train(optimizer, range(1, 2))
    finally:
        set_gradients(optimizer.param_groups[0]["params"], 0)
        assert everything(optimizer) == before


DOORS = [at_construction, in_a_group, in_an_added_group, loaded, set_by_a_scheduler]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("value", "shown"), [(4.5, "4.5"), (-1, "-1"), ("a", "'a'"), (float("nan"), "nan")])
def test_a_value_out_of_range_is_refused_at_every_door(door, value, shown):
    wanted = f"Invalid power: {shown}; it must be a finite number from 0 to 4, such as 1.0"
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        door(value)


@pytest.mark.parametrize(
    ("hyperparameter", "value", "message"),
    [
        (Hyperparameter(0.5), float("inf"), "it must be a finite number, such as 0.5"),
        (Hyperparameter(0.5, ge=0), -1, "it must be a finite number of 0 or more, such as 0.5"),
        (Hyperparameter(0.5, gt=0), 0, "it must be a finite number above 0, such as 0.5"),
        (Hyperparameter(0.5, le=1), 2, "it must be a finite number of 1 or less, such as 0.5"),
        (Hyperparameter(0.5, lt=1), 1, "it must be a finite number below 1, such as 0.5"),
        (Hyperparameter(0.5, ge=0, lt=1), 1, "it must be a finite number of 0 or more and below 1, such as 0.5"),
        (Hyperparameter(0.5, gt=0, lt=1, reason="it is a share"), 0,
         "it must be a finite number above 0 and below 1, such as 0.5, since it is a share"),
        (Hyperparameter(1, ge=0), 0.5, "it must be an integer of 0 or more, such as 1"),
        (Hyperparameter(True), 2, "it must be True or False"),
        (Hyperparameter("m", choices=("m", "g")), "b", "it must be 'm' or 'g'"),
        (Hyperparameter("m"), 1, "it must be a string"),
    ],
)  # fmt: skip
def test_what_a_range_says(hyperparameter, value, message):
    with pytest.raises(ValueError, match=f"^Invalid x: .*; {re.escape(message)}$"):
        hyperparameter.plain("x", value)
    kept = hyperparameter.plain("x", hyperparameter.default)
    assert (kept, type(kept)) == (hyperparameter.default, type(hyperparameter.default))


def test_a_subclass_changes_a_default_and_keeps_the_range():
    class Child(Damped):
        own: ClassVar = dict(power=3, side="m")

    assert Child(parameters()).defaults["power"] == 3.0
    with pytest.raises(ValueError, match="Invalid power: 5; it must be a finite number from 0 to 4"):
        Child(parameters(), power=5)


def test_a_checkpoint_and_a_copy_keep_them():
    optimizer = Damped(parameters(), power=0.5, side="m")
    train(optimizer, range(2))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    (other := Damped(parameters())).load_state_dict(torch.load(file, weights_only=True))
    for twin in (other, copy.deepcopy(optimizer)):
        assert twin.param_groups[0]["power"] == 0.5
        assert twin.param_groups[0]["side"] == "m"


WRONG_CLASSES = {
    "neither sum nor hyperparameter": (
        dict(rule=lambda gg, gm, mm, slope: (slope, 1.0)),
        "Mine.rule takes (gg, gm, mm, slope): 'slope' is neither one of the sums gg, gm, mm, dd nor in Mine.own; give "
        "it a default, as own = dict(slope=0.5)",
    ),
    "misspelt hyperparameter": (
        dict(rule=lambda gg, gm, mm, *, pwoer: (1.0, 1.0), own=dict(power=0.5)),
        "Mine.rule takes (gg, gm, mm, pwoer): 'pwoer' is neither one of the sums gg, gm, mm, dd nor in Mine.own; did "
        "you mean 'power'? Else give it a default, as own = dict(pwoer=0.5)",
    ),
    "a sum that there is not": (
        dict(rule=lambda gg, pp: (1.0, 1.0)),
        "Mine.rule takes (gg, pp): 'pp' is neither one of the sums gg, gm, mm, dd nor in Mine.own; give it a default, "
        "as own = dict(pp=0.5)",
    ),
    "no sum": (
        dict(rule=lambda: (1.0, 1.0)),
        "Mine.rule takes (), which has none of the sums gg, gm, mm, dd: let it begin with those that it needs, or give "
        "a constant pair (alpha, beta)",
    ),
    "a sum after a hyperparameter": (
        dict(rule=lambda gg, power, mm: (1.0, 1.0), own=dict(power=0.5)),
        "Mine.rule takes (gg, power, mm): its sums must come first, and mm comes after a hyperparameter",
    ),
    "packed": (
        dict(rule=lambda *sums: (1.0, 1.0)),
        "Mine.rule takes (*sums): name each sum and each hyperparameter, as (gg, gm, mm, *, power)",
    ),
    "a method": (
        dict(rule=lambda self, gg, gm, mm: (1.0, 1.0)),
        "Mine.rule is a method: what it reads from self is in no parameter group and no checkpoint; leave `self` out, "
        "and give the rule's own hyperparameters to `own`",
    ),
    "no pair": (
        dict(rule=(1.0, 0.5, 0.25)),
        "Mine.rule is (1.0, 0.5, 0.25); it must be a pair of numbers (alpha, beta), or a function of gg, gm, mm that "
        "gives them",
    ),
    "a nan": (
        dict(rule=(1.0, float("nan"))),
        "Mine.rule is (1.0, nan); its numbers (alpha, beta) must be finite",
    ),
    "clash with a shared argument": (
        dict(rule=lambda gg, gm, mm, *, lr: (lr, 1.0), own=dict(lr=0.1)),
        "Mine.own has 'lr', which every optimizer of the family has already (a subclass changes its default in "
        "__init__): give the hyperparameter another name",
    ),
    "clash with a scheduler": (
        dict(rule=(1.0, 1.0), own=dict(initial_lr=0.1)),
        "Mine.own has 'initial_lr', which torch or a scheduler keeps in a parameter group: give the hyperparameter "
        "another name",
    ),
    "clash with a sum": (
        dict(rule=(1.0, 1.0), own=dict(dd=0.1)),
        "Mine.own has 'dd', which is the name of a sum: give the hyperparameter another name",
    ),
    "no default that a checkpoint holds": (
        dict(rule=(1.0, 1.0), own=dict(of=None)),
        "Mine.own['of']: the default of a hyperparameter is None; it must be a number, True or False, or a string, "
        "which every checkpoint can hold",
    ),
    "a list": (
        dict(rule=(1.0, 1.0), own=["power"]),
        "Mine.own is ['power']; it must be a dict of defaults by name, as own = dict(power=0.5)",
    ),
    "another kind of layerwise": (
        dict(rule=(1.0, 1.0), own=dict(layerwise="mid")),
        "Mine.own['layerwise']: Invalid layerwise: 'mid'; it must be 'pre' or 'post'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", WRONG_CLASSES)
def test_a_wrong_class_is_refused_where_it_is_written(why):
    attributes, message = WRONG_CLASSES[why]
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}$"):
        made(**attributes)


def test_a_default_out_of_its_range_is_refused_where_it_is_written():
    message = "the default of a hyperparameter is 5.0; it must be a finite number from 0 to 4"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Hyperparameter(5.0, ge=0, le=4)
    for own, message in [
        (
            dict(power=7, side="m"),
            "['power']: Invalid power: 7; it must be a finite number from 0 to 4, such as 1.0",
        ),
        (dict(power=1, side="g"), "['side']: Invalid side: 'g'; it must be 'both' or 'm'"),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape('Mine.own' + message)}$"):
            type("Mine", (Damped,), {"own": own})


def test_a_value_is_plain_at_the_first_step_that_uses_it():
    """A scheduler sets what it likes between two steps: the rule sees it checked, or not at all."""
    seen = []

    class Own(aida.Layerwise):
        own = dict(power=aida.Hyperparameter(1.0, ge=0, le=4), count=2)  # noqa: RUF012

        @staticmethod
        def rule(gg, mm, *, power, count):
            seen.append((power, count))
            return 1.0, 1.0

    for power, count in (
        (np.array([1.5]), np.array([3])),
        (torch.tensor([[1.5]]), torch.tensor([[3]])),
        (np.float32(1.5), np.int64(3)),
    ):
        train(optimizer := Own(parameters()), range(1))
        optimizer.param_groups[0].update(power=power, count=count)
        seen.clear()
        train(optimizer, [1])
        assert seen == [(1.5, 3)]
        assert [*map(type, seen[0])] == [float, int]
        optimizer.param_groups[0]["power"] = torch.tensor([1.0, 2.0])
        seen.clear()
        with pytest.raises(ValueError, match="Invalid power"):
            optimizer.step()
        assert not seen


def test_K_is_checked_before_the_rule_is_chosen_by_it():
    for K in (np.array([0]), torch.tensor([[0]]), np.array([1]), torch.tensor([1.0]).long()):
        optimizer, twin = aida.Aida(parameters(), K=2), aida.Aida(parameters(), K=2)
        for one, value in ((optimizer, K), (twin, int(K.item()))):
            train(one, range(2))
            one.param_groups[0]["K"] = value
            train(one, range(2, 4))
        assert_bitwise(snapshot(optimizer), snapshot(twin))
    optimizer.param_groups[0]["K"] = np.array([1, 2])
    with pytest.raises(ValueError, match="Invalid K"):
        optimizer.step()
