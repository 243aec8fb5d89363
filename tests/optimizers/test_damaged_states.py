"""A state that is damaged is refused in one sentence, and nothing has changed, whatever a load raises."""

import copy

import pytest
import torch

import aida
from aida.optimizers.state import moments
from helpers.edits import everything
from helpers.members import OWN, assert_bitwise, parameters, train

SHAPES = [(4, 3), (300,)]


def of_1(**values):
    return lambda saved: saved["state"][1].update(values)


DAMAGE = {
    "step None": of_1(step=None),
    "step text": of_1(step="x"),
    "step of two": of_1(step=torch.tensor([1.0, 2.0])),
    "step nan": of_1(step=torch.tensor(torch.nan)),
    "step negative": of_1(step=-1),
    "step bool": of_1(step=torch.tensor(True)),
    "m a list": of_1(exp_avg=[0.0] * 300),
    "m NumPy's": of_1(exp_avg=torch.zeros(300).numpy()),
    "v None": of_1(exp_avg_var=None),
    "rounding_step an int": of_1(rounding_step=3),
    "rounding_step of two": of_1(rounding_step=torch.zeros(2, dtype=torch.int64)),
    "entry None": lambda saved: saved["state"].update({1: None}),
    "entry a tensor": lambda saved: saved["state"].update({1: torch.zeros(3)}),
    "states a list": lambda saved: saved.update(state=[*saved["state"].values()]),
    "groups a dict": lambda saved: saved.update(param_groups=saved["param_groups"][0]),
    "a group None": lambda saved: saved["param_groups"].__setitem__(0, None),
    "codes alone": of_1(exp_avg=torch.zeros(300, dtype=torch.int8)),
    "scales alone": of_1(exp_avg_scale=torch.zeros(2)),
}
CODED = {
    "m without scales": lambda saved: saved["state"][1].pop("exp_avg_scale"),
    "v without scales": lambda saved: saved["state"][1].pop("exp_avg_var_scale"),
    "scales without codes": of_1(exp_avg=torch.zeros(300)),
    "scales of another shape": of_1(exp_avg_scale=torch.ones(5, 2)),
    "scales of another length": of_1(exp_avg_var_scale=torch.ones(3)),
    "codes of another type": of_1(exp_avg=torch.zeros(300, dtype=torch.uint8)),
}


def refused(optimizer, state):
    before, entries = everything(optimizer), {p: {**of_p} for p, of_p in optimizer.state.items()}
    groups = [*optimizer.param_groups]
    with pytest.raises(
        ValueError, match=r"^this state has .*: nothing was loaded; give .* as it was saved"
    ) as caught:
        optimizer.load_state_dict(state)
    assert "\n" not in str(caught.value)
    assert everything(optimizer) == before
    assert all(a is b for a, b in zip(optimizer.param_groups, groups, strict=True))
    for p, of_p in optimizer.state.items():
        assert all(entries[p][name] is x for name, x in of_p.items())


@pytest.mark.parametrize("cls", [aida.Aida, aida.LAdam])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_state_is_refused_and_nothing_changed(cls, how):
    optimizer, twin = (cls(parameters(SHAPES), **OWN[cls][0]) for _ in range(2))
    for one in (optimizer, twin):
        train(one, range(2))
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["lr"] = 9.0
    DAMAGE[how](state)
    refused(optimizer, state)
    for one in (optimizer, twin):
        train(one, [2])
    assert everything(optimizer) == everything(twin)


@pytest.mark.parametrize("into", ["int8", None])
@pytest.mark.parametrize("how", CODED)
def test_codes_and_scales_are_loaded_together_or_not_at_all(how, into):
    train(optimizer := aida.Aida(parameters(SHAPES), state_dtype="int8"), range(2))
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0].update(state_dtype=into, lr=9.0)
    CODED[how](state)
    refused(optimizer, state)
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["state_dtype"] = into
    before = [x.clone() for of_p in optimizer.state.values() for x in moments(of_p)]
    optimizer.load_state_dict(state)
    assert_bitwise([x for of_p in optimizer.state.values() for x in moments(of_p)], before)


@pytest.mark.parametrize(
    "step", [2, 2.0, torch.tensor([2.0]), torch.tensor(2), torch.tensor([[2.0]])], ids=str
)
def test_a_step_of_any_form_is_loaded_as_a_counter(step):
    optimizer, twin = (aida.Aida(parameters(SHAPES)) for _ in range(2))
    for one in (optimizer, twin):
        train(one, range(2))
    state = optimizer.state_dict()
    for of_p in state["state"].values():
        of_p["step"] = step
    optimizer.load_state_dict(state)
    for one in (optimizer, twin):
        train(one, [2])
    assert everything(optimizer) == everything(twin)


def test_whatever_a_load_raises_nothing_has_changed():
    """A hook that raises after the load, and torch's own refusals."""
    train(optimizer := aida.Aida(parameters(SHAPES)), range(2))
    before, state = everything(optimizer), copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["lr"] = 9.0
    hook = optimizer.register_load_state_dict_post_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.load_state_dict(state)
    hook.remove()
    assert everything(optimizer) == before
    state["state"][0]["exp_avg"] = torch.zeros(7, device="meta")
    with pytest.raises(NotImplementedError, match="no data"):
        optimizer.load_state_dict(state)
    assert everything(optimizer) == before
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["lr"] = -1
    with pytest.raises(ValueError, match="Invalid learning rate"):
        optimizer.load_state_dict(state)
    assert everything(optimizer) == before
