"""Step counters on several devices, and steps of which a device decides whether they count.

"meta" stands for an accelerator: what mixes devices raises there too.
"""

import pytest
import torch
from torch.nn import Parameter

import aida
from aida.backends import eager
from helpers.members import assert_bitwise, parameters, snapshot, train

META = torch.device("meta")
ROUNDING = pytest.mark.parametrize("own", [{}, {"stochastic_rounding": True}], ids=["nearest", "random"])


def optimizer_of(params, **arguments):
    return aida.Aida(params, foreach=False, **arguments)


def step(optimizer, **scaling):
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        p.grad = torch.ones_like(p)
    vars(optimizer).update(scaling)
    optimizer.step()


@ROUNDING
def test_counters_of_one_group_may_be_in_two_places(own):
    """As after steps with GradScaler, whose layers alone have theirs on the device."""
    optimizer = optimizer_of([Parameter(torch.ones(3, device=META)) for _ in range(2)], **own)
    step(optimizer)
    first, last = optimizer.state.values()
    for state in (first, last):
        state["step"] = state["step"].to(META)
        if own:
            state["rounding_step"] = torch.ones((), dtype=torch.int64, device=META)
        step(optimizer)
        first, last = last, first


def test_a_rate_on_the_device_needs_no_counters_there():
    step(optimizer_of([Parameter(torch.ones(3, device=META))], lr=torch.tensor(1e-3, device=META)))


@ROUNDING
@pytest.mark.parametrize("capturable", [True, False])
def test_what_a_capturable_step_counts_is_a_tensor_for_the_backend(own, capturable, monkeypatch):
    """A number would be the same at every replay of a graph."""
    seen, apply = [], eager.apply
    monkeypatch.setattr(eager, "apply", lambda *given: seen.append(given[-1]) or apply(*given))
    optimizer = optimizer_of([Parameter(torch.ones(3))], capturable=capturable, **own)
    step(optimizer)
    columns = [seen[0].inv_bias2, seen[0].step_size, *([seen[0].keys] if own else [])]
    assert {isinstance(column, torch.Tensor) for column in columns} == {capturable}


@ROUNDING
def test_found_inf_may_be_on_another_device(own, monkeypatch):
    monkeypatch.setattr(eager, "SUPPORTS_GRAD_SCALE", True, raising=False)
    lr = torch.tensor(1e-3)  # so that a whole-number counter is made at once, on the CPU
    optimizer = optimizer_of([Parameter(torch.ones(3, device=META))], lr=lr, **own)
    for _ in range(2):
        step(optimizer, found_inf=torch.zeros(1))
    (state,) = optimizer.state.values()
    assert {x.device for x in state.values()} == {META}


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
@ROUNDING
def test_a_parameter_twice_in_a_group_counts_twice_where_the_device_counts(own, monkeypatch):
    monkeypatch.setattr(eager, "SUPPORTS_GRAD_SCALE", True, raising=False)
    one, other = (optimizer_of([p, p], lr=0.1, **own) for p in (Parameter(torch.ones(3)) for _ in range(2)))
    for _ in range(3):
        step(one, found_inf=torch.zeros(()))
        step(other)
    for state in one.state.values():
        state.pop("rounding_step", None)
    assert_bitwise(snapshot(one), snapshot(other))


@ROUNDING
def test_a_step_of_which_the_device_says_no_does_not_count(own, monkeypatch):
    monkeypatch.setattr(eager, "SUPPORTS_GRAD_SCALE", True, raising=False)
    optimizer = optimizer_of([Parameter(torch.ones(3))], lr=torch.tensor(1e-3), **own)
    counts = []
    for found in (0.0, 1.0, 0.0):
        step(optimizer, found_inf=torch.tensor(found))
        (state,) = optimizer.state.values()
        counts.append([state[name].item() for name in ("step", "rounding_step") if name in state])
    assert counts == [[n] * (1 + bool(own)) for n in (1, 1, 2)]


@pytest.mark.parametrize("name", ["grad_scale", "found_inf"])
def test_beside_the_cpu_only_a_fused_step_is_scaled(name):
    """The host would have to wait for the device to read it."""
    optimizer = optimizer_of([Parameter(torch.ones(3, device=META))])
    with pytest.raises(RuntimeError, match="used by the fused step alone"):
        step(optimizer, **{name: torch.ones(1)})


def test_a_counter_of_whole_numbers_is_made_where_float32_stops_to_count():
    for count, made in ((1000, False), (2**24 - 1, True)):
        optimizer = optimizer_of([Parameter(torch.ones(3))], stochastic_rounding=True)
        step(optimizer)
        (state,) = optimizer.state.values()
        state["step"].fill_(count)
        step(optimizer)
        assert ("rounding_step" in state) == made, count


@pytest.mark.parametrize("strange", [3, torch.zeros(2, dtype=torch.int64), torch.tensor(1.5)], ids=repr)
def test_a_counter_for_rounding_that_is_none_is_refused(strange):
    optimizer = optimizer_of([Parameter(torch.ones(3))], lr=torch.tensor(1e-3), stochastic_rounding=True)
    step(optimizer)
    (state,) = optimizer.state.values()
    state["rounding_step"] = strange
    with pytest.raises(RuntimeError, match=r"a rounding_step is .*: nothing was stepped"):
        step(optimizer)
    assert float(state["step"]) == 1


@pytest.mark.parametrize("count", [-1.0, -5.0, float("nan"), float("inf")])
@pytest.mark.parametrize("all_of_them", [True, False])
def test_a_counter_that_is_no_number_of_steps_is_refused_whole(count, all_of_them):
    params = [Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = optimizer_of(params)
    step(optimizer)
    for p in params if all_of_them else params[1:]:
        optimizer.state[p]["step"].fill_(count)
    before = snapshot(optimizer)
    with pytest.raises(
        RuntimeError, match=f"a step counter is {count}, which is no number .*nothing was stepped"
    ):
        step(optimizer)
    for ours, theirs in zip(snapshot(optimizer), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("foreach", [False, True, None])
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("shapes", [[(1,), (1,)], [(1,), ()], [(), (1, 1)]], ids=str)
def test_counters_of_one_element_of_any_shape_count(shapes, capturable, foreach):
    found = []
    for of_counters in (shapes, [(), ()]):
        optimizer = aida.Aida(parameters([(4, 3), (5,)]), foreach=foreach, capturable=capturable)
        train(optimizer, range(2))
        for of_p, shape in zip(optimizer.state.values(), of_counters, strict=True):
            of_p["step"] = of_p["step"].reshape(shape).clone()
        train(optimizer, range(2, 5))
        assert [tuple(of_p["step"].shape) for of_p in optimizer.state.values()] == of_counters
        found.append([x.reshape(-1) for x in snapshot(optimizer)])
    assert_bitwise(*found)
