"""torch.amp.GradScaler on the CPU, and its grad_scale and found_inf where they are set by hand."""

import copy

import pytest
import torch
from torch.nn import Parameter

from aida.backends import cpu
from helpers.members import assert_bitwise, parameters, set_gradients, snapshot, train
from helpers.optimizer_infos import INFOS

KINDS = ["eager", "foreach", *(["fused"] if cpu.unsupported_reason(torch.float32) is None else [])]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_info = pytest.mark.parametrize("info", INFOS, ids=[info.name for info in INFOS])
every_type = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)


def make(info, kind, dtype, kwargs):
    return info.optim_cls(parameters(dtype=dtype), **kwargs, foreach=kind == "foreach", fused=kind == "fused")


@every_info
@every_kind
@every_type
def test_found_inf_steps_nothing_and_counts_nothing(info, kind, dtype):
    for entry in info.optim_inputs_func(device="cpu"):
        for began in (0, 2):
            for scale in (None, torch.ones(1)):
                optimizer = make(info, kind, dtype, entry.kwargs)
                train(optimizer, range(began))
                before = snapshot(optimizer)
                optimizer.grad_scale, optimizer.found_inf = scale, torch.ones(())
                train(optimizer, [began])
                assert_bitwise(snapshot(optimizer), before)
                assert {int(s["step"]) for s in optimizer.state.values() if s} <= {began}


@every_info
@every_kind
@every_type
def test_grad_scale_is_divided_out_and_the_gradient_stays(info, kind, dtype):
    for entry in info.optim_inputs_func(device="cpu"):
        plain, scaled = (make(info, kind, dtype, entry.kwargs) for _ in range(2))
        train(plain, range(3))
        scaled.grad_scale, scaled.found_inf = torch.full((), 1024.0), torch.zeros(())
        for t in range(3):
            params = scaled.param_groups[0]["params"]
            set_gradients(params, t, 1024.0)
            given = [p.grad.clone() for p in params]
            scaled.step()
            assert_bitwise([p.grad for p in params], given)
        assert_bitwise(snapshot(scaled), snapshot(plain))  # powers of two are exact


@every_info
@every_kind
@every_type
def test_the_scaler_skips_an_infinite_gradient_as_a_step_that_was_not_taken(info, kind, dtype):
    """And is told what torch's Adam with the same fused says of itself, but for dividing by itself."""
    for entry in info.optim_inputs_func(device="cpu"):
        plain, scaled = (make(info, kind, dtype, entry.kwargs) for _ in range(2))
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        for t in range(4):
            params = scaled.param_groups[0]["params"]
            set_gradients(params, t, scaler.get_scale())
            if t == 2:
                params[1].grad.view(-1)[0] = torch.inf
            else:
                train(plain, [t])
            scaler.scale(torch.zeros(()))
            scaler.step(scaled)
            scaler.update()
        assert scaler.get_scale() == 128.0
        assert {int(s["step"]) for s in scaled.state.values()} == {3}
        assert_bitwise(snapshot(scaled), snapshot(plain))  # powers of two are exact


@every_info
def test_a_copy_and_a_checkpoint_know_nothing_of_the_scaler(info):
    optimizer = info.optim_cls([Parameter(torch.ones(2))])
    optimizer.grad_scale, optimizer.found_inf = torch.ones(()), torch.ones(())
    assert not {"grad_scale", "found_inf"} & {*optimizer.state_dict()["param_groups"][0]}
    twin = copy.deepcopy(optimizer)
    train(twin, [0])
    assert {int(s["step"]) for s in twin.state.values()} == {1}


@every_kind
def test_found_inf_of_0_without_a_scale_is_a_plain_step(kind):
    plain, told = (make(INFOS[0], kind, torch.float32, {}) for _ in range(2))
    told.found_inf = torch.zeros(())
    for optimizer in (plain, told):
        train(optimizer, range(3))
    assert_bitwise(snapshot(told), snapshot(plain))


@every_kind
def test_a_scale_without_found_inf_divides(kind):
    plain, told = (make(INFOS[0], kind, torch.float32, {}) for _ in range(2))
    told.grad_scale = torch.full((), 4.0)
    train(plain, range(3))
    train(told, range(3), scale=4.0)
    assert_bitwise(snapshot(told), snapshot(plain))
