"""The rule that a group keeps from step to step is the one that its values give, whatever is done to them."""

import copy
import pickle
from typing import ClassVar

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import aida
from helpers.members import assert_bitwise, parameters, set_gradients, snapshot


def damped(gg, mm, *, power, shift=0.0):
    """Of the sign of shift too, by which 0.0 and -0.0 differ."""
    share = mm / (mm + gg + 1e-30)
    return share * torch.copysign(torch.ones(()), torch.as_tensor(shift)), share**power


def turned(gg, mm, *, power, shift=0.0):
    alpha, beta = damped(gg, mm, power=power, shift=shift)
    return beta, alpha


class Damped(aida.Layerwise):
    rule = staticmethod(damped)
    own: ClassVar = dict(power=1.0, shift=0.0)

    @classmethod
    def of_class(cls, gg, mm, *, power, shift=0.0):
        return damped(gg, mm, power=power + 1, shift=shift)


class Anew(Damped):
    """The oracle, which makes the rule in every step."""

    def _kept_rule(self, i):
        return self.rule_of(self.param_groups[i])


ATTRIBUTES = [
    dict(rule=staticmethod(turned)),
    dict(rule=Damped.__dict__["of_class"]),
    dict(rule=(1.0, 0.5)),
    dict(sums=("mm", "gg")),
    dict(rule_arguments=("power",)),
    dict(mixes_layers=True),
]
VALUES = [0.0, -0.0, 1.0, 1, 2.0, torch.tensor(0.5)]
ACTIONS = st.one_of(
    st.tuples(
        st.just("value"), st.integers(0, 2), st.sampled_from(["power", "shift"]), st.sampled_from(VALUES)
    ),
    st.tuples(st.just("class"), st.sampled_from(ATTRIBUTES)),
    st.tuples(
        st.sampled_from(["swap", "remove", "add", "load", "load the first", "pickle", "deepcopy", "nothing"])
    ),
)


def built(cls):
    groups = [dict(params=parameters([(2, 3), (4,)])), dict(params=parameters([(3,)]), power=2.0)]
    return cls(groups, lr=0.1, foreach=False)


def acted(optimizer, action, first):
    """The optimizer that goes on; first: its state before any step."""
    kind, *given_ = action
    groups = optimizer.param_groups
    if kind == "value":
        i, name, value = given_
        groups[i % len(groups)][name] = copy.deepcopy(value)
    elif kind == "swap":
        groups.reverse()
    elif kind == "remove" and len(groups) > 1:
        for p in groups.pop(0)["params"]:  # torch saves no state of a parameter that is in no group
            optimizer.state.pop(p, None)
    elif kind == "add":
        optimizer.add_param_group(dict(params=parameters([(2, 2)]), power=3.0))
    elif kind == "load":
        optimizer.load_state_dict(optimizer.state_dict())
    elif kind == "load the first" and [len(g["params"]) for g in groups] == [2, 1]:
        optimizer.load_state_dict(first)
    elif kind == "pickle":
        return pickle.loads(pickle.dumps(optimizer))
    elif kind == "deepcopy":
        return copy.deepcopy(optimizer)
    return optimizer


@example([("remove",), ("load",)])
@given(st.lists(ACTIONS, min_size=1, max_size=8))
def test_whatever_is_done_the_step_is_the_one_of_a_rule_made_anew(actions):
    with pytest.MonkeyPatch.context() as patch:
        optimizers = [built(Damped), built(Anew)]
        first = [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers]
        for t, action in enumerate([("nothing",), *actions]):
            if action[0] == "class":
                for name, value in action[1].items():
                    patch.setattr(Damped, name, value)
                    patch.setattr(Anew, name, value)
            else:
                optimizers = [acted(o, action, start) for o, start in zip(optimizers, first, strict=True)]
            for optimizer in optimizers:
                set_gradients([p for group in optimizer.param_groups for p in group["params"]], t)
                optimizer.step()
            assert_bitwise(*map(snapshot, optimizers))


@given(st.lists(ACTIONS, min_size=1, max_size=8))
def test_a_kept_rule_has_the_fields_of_one_made_anew(actions):
    """What no step shows: an attribute that only the checks before the step read."""
    with pytest.MonkeyPatch.context() as patch:
        optimizer = built(Damped)
        first = copy.deepcopy(optimizer.state_dict())
        for action in [("nothing",), *actions]:
            if action[0] == "class":
                for name, value in action[1].items():
                    patch.setattr(Damped, name, value)
            else:
                optimizer = acted(optimizer, action, first)
            for i, group in enumerate(optimizer.param_groups):
                kept, made = optimizer._kept_rule(i), optimizer.rule_of(group)
                assert optimizer._kept_rule(i) is kept
                if isinstance(made, tuple):
                    assert kept == made
                    continue
                assert list(kept.hyperparameters) == list(made.hyperparameters)
                assert all(
                    kept.hyperparameters[name] is made.hyperparameters[name] for name in made.hyperparameters
                )
                assert kept.function == made.function
                assert (kept.sums, kept.name, kept.mixes_layers) == (made.sums, made.name, made.mixes_layers)


@pytest.mark.parametrize(
    "rule", [staticmethod(damped), Damped.__dict__["of_class"]], ids=["function", "class method"]
)
def test_a_rule_is_kept_while_its_values_are_the_same(rule, monkeypatch):
    monkeypatch.setattr(Damped, "rule", rule)
    optimizer = built(Damped)
    one, other = (optimizer._kept_rule(i) for i in (0, 1))
    assert one is not other
    set_gradients([p for group in optimizer.param_groups for p in group["params"]], 0)
    optimizer.step()
    assert (optimizer._kept_rule(0), optimizer._kept_rule(1)) == (one, other)
    assert optimizer._kept_rule(0) is one
    assert optimizer._kept_rule(1) is other
    optimizer.param_groups[1]["power"] = 3.0
    assert optimizer._kept_rule(0) is one
    assert optimizer._kept_rule(1) is not other
