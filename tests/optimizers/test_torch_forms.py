"""torch's own tests of its optimizers, told anew over INFOS: each setting in each implementation.

The settings, the schedulers and the wrong arguments are those that torch's wheel has for Adam (database.py).
docs/design/torch-contract.md says which of torch's tests is where.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import Parameter
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.testing._internal.common_optimizers import _get_optim_inputs_including_global_cliquey_kwargs

from aida.backends import cpu
from aida.backends.dispatch import FUSED
from helpers.members import assert_bitwise, assert_near, parameters, set_gradients, snapshot, train
from helpers.optimizer_infos import INFOS, INPUTS

KINDS = ["eager", "foreach", *(["fused"] if cpu.unsupported_reason(torch.float32) is None else [])]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
every_info = pytest.mark.parametrize("info", INFOS, ids=[info.name for info in INFOS])
every_kind = pytest.mark.parametrize("kind", KINDS)
every_input = pytest.mark.parametrize(("cls", "entry"), INPUTS, ids=[entry.desc for _, entry in INPUTS])
needs_fused = pytest.mark.skipif("fused" not in KINDS, reason="the CPU kernel is not built")


def of_kind(kind, **kwargs):
    return {**kwargs, "foreach": kind == "foreach", "fused": kind == "fused"}


def flags(entry):
    """Each of an entry's settings with every implementation, on and off, as torch's tests take them."""
    inputs = _get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float32, entry)
    return [e.kwargs for e in inputs]


def problem(dtype=torch.float32, contiguous=True):
    """Two parameters, and a loss of them that has nothing random."""
    weight, bias = (p.detach() for p in parameters([(10, 5, 2), (10, 2)], dtype=dtype))
    weight, bias = weight[..., 0], bias[..., 0]
    params = [Parameter(x.contiguous() if contiguous else x) for x in (weight, bias)]
    data = torch.linspace(-1, 2, 5, dtype=dtype)
    return params, lambda: (params[0].mv(data) + params[1]).pow(2).sum()


def descend(optimizer, loss, steps, schedulers=()):
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step(*([value.detach()] if isinstance(scheduler, ReduceLROnPlateau) else []))


def assert_right_direction(loss, start, kwargs):
    assert (loss().item() > start) == bool(kwargs.get("maximize"))


def test_inputs_are_new_at_each_call():
    """torch's tests write foreach and lr into them."""
    for info in INFOS:
        first, second = (info.optim_inputs_func(device="cpu") for _ in range(2))
        assert not {"foreach", "fused", "differentiable"} & {k for e in first for k in e.kwargs}
        assert all(a.kwargs is not b.kwargs for a, b in zip(first, second, strict=True))


@every_info
@pytest.mark.parametrize("contiguous", [True, False])
def test_the_loss_goes_the_right_way_with_every_scheduler_of_torch(info, contiguous):
    entries, makes = info.optim_inputs_func(device="cpu"), [(), *info.scheduler_inputs]
    for i in range(max(len(entries), len(makes))):  # each setting and each scheduler at least once
        entry, make = copy.deepcopy(entries[i % len(entries)]), makes[i % len(makes)]
        params, loss = problem(contiguous=contiguous)
        optimizer = info.optim_cls(params, foreach=False, **entry.kwargs)
        start = loss().item()
        descend(optimizer, loss, 20, [m(optimizer) for m in make])
        assert_right_direction(loss, start, entry.kwargs)


@every_info
def test_groups_under_a_scheduler_and_with_an_own_decay_and_lr(info):
    for make in info.scheduler_inputs:
        params, loss = problem()
        optimizer = info.optim_cls([{"params": params[:1]}, {"params": params[1:], "lr": 0.01}])
        start = loss().item()
        descend(optimizer, loss, 20, [m(optimizer) for m in make])
        assert loss().item() < start
    for kwargs in flags(info):
        if kwargs["differentiable"]:
            continue
        params, loss = problem()
        (still,) = parameters([(2,)])
        before, start = still.detach().clone(), loss().item()
        groups = [{"params": params[:1], **kwargs}, {"params": params[1:], **kwargs, "weight_decay": 0.0}]
        optimizer = info.optim_cls([*groups, {"params": [still]}], lr=1e-28)
        for group in optimizer.param_groups[:2]:
            group["lr"] = kwargs.get("lr", 1e-3)
        for t in range(20):
            set_gradients([still], t)
            gradient = still.grad
            optimizer.zero_grad()
            still.grad = gradient
            loss().backward()
            optimizer.step()
        assert_right_direction(loss, start, kwargs)
        torch.testing.assert_close(still.detach(), before, rtol=0, atol=1e-20)


@every_kind
@every_input
def test_a_tensor_lr_of_any_dimensions_and_tensor_betas_are_numbers(cls, entry, kind):
    kwargs = {k: v for k, v in entry.kwargs.items() if k not in ("lr", "betas")}
    plain = cls(parameters(dtype=torch.float64), lr=0.25, betas=(0.5, 0.75), **of_kind(kind, **kwargs))
    train(plain, range(3))
    betas = torch.tensor(0.5), torch.tensor([[0.75]])
    for dims in range(3):
        given = dict(lr=torch.tensor(0.25).reshape([1] * dims))
        if kind != "foreach":  # where torch refuses tensor betas, and so does this
            given["betas"] = betas
        tensor = cls(
            parameters(dtype=torch.float64), **{"betas": (0.5, 0.75), **given}, **of_kind(kind, **kwargs)
        )
        train(tensor, range(3))
        assert tensor.param_groups[0]["betas"] == (0.5, 0.75)
        assert_near(snapshot(tensor), snapshot(plain), 1e-14)


@every_input
@pytest.mark.parametrize("kind", KINDS[1:])
def test_every_implementation_matches_the_loop(cls, entry, kind):
    """With a step that is skipped, a layer that is frozen for two steps, and a parameter of no dimensions."""
    for dtype in DTYPES if kind == "fused" else DTYPES[:2]:
        both = []
        for form in ("eager", kind):
            generator = torch.Generator().manual_seed(1)
            model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid())
            with torch.no_grad():
                for p in model.parameters():
                    p.uniform_(-0.5, 0.5, generator=generator)
            model.to(dtype)
            scalar = Parameter(torch.tensor(0.5, dtype=dtype))
            optimizer = cls([*model.parameters(), scalar], **of_kind(form, **entry.kwargs))
            data = torch.linspace(0.1, 0.6, 6, dtype=dtype).reshape(3, 2)
            for t in range(7):
                optimizer.zero_grad()
                model[2].requires_grad_(t not in (3, 4))
                if t != 2:
                    model(data).sum().backward()
                    scalar.grad = torch.full_like(scalar, 0.25)
                optimizer.step()
            both.append(snapshot(optimizer))
        for x, y in zip(*both, strict=True):
            torch.testing.assert_close(y, x)


@every_kind
@every_info
def test_types_may_be_mixed_in_a_group(info, kind):
    for entry in info.optim_inputs_func(device="cpu"):
        together = [p for dtype in DTYPES for p in parameters([(2, 3)] * 2, dtype=dtype)]
        apart = [[Parameter(p.detach().clone())] for p in together]
        kwargs = of_kind(kind, **entry.kwargs)
        optimizers = [info.optim_cls(ps, **kwargs) for ps in (together, *apart)]
        for t in range(3):
            set_gradients(together, t)
            for p, (alone,) in zip(together, apart, strict=True):
                alone.grad = p.grad.clone()
            for o in optimizers:
                o.step()
        for x, y in zip(
            snapshot(optimizers[0]), [x for o in optimizers[1:] for x in snapshot(o)], strict=True
        ):
            torch.testing.assert_close(x, y)


@every_kind
@every_info
def test_counters_have_the_type_of_torchs(info, kind):
    """float64 where that is the default and nothing is fused, else float32; and the step is the same."""

    def run(cls, **kwargs):
        optimizer = cls(parameters(dtype=torch.float64), **kwargs, **of_kind(kind))
        train(optimizer, range(2))
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        train(optimizer, [2])
        return optimizer

    def run_by_default(default, cls, **kwargs):
        before = torch.get_default_dtype()
        torch.set_default_dtype(default)
        try:
            return run(cls, **kwargs)
        finally:
            torch.set_default_dtype(before)

    for kwargs in ({}, {"capturable": True}, {"stochastic_rounding": True}):
        reference = snapshot(run(info.optim_cls, **kwargs))
        for default in (torch.float64, torch.float16):
            optimizer = run_by_default(default, info.optim_cls, **kwargs)
            (wanted,) = {s["step"].dtype for s in run_by_default(default, torch.optim.Adam).state.values()}
            assert {s["step"].dtype for s in optimizer.state.values()} == {wanted}
            for x, y in zip(snapshot(optimizer), reference, strict=True):
                torch.testing.assert_close(x, y.to(x.dtype), rtol=1e-14, atol=0)


@needs_fused
@every_info
def test_fused_is_refused_where_nothing_is_fused_until_it_is(info, monkeypatch):
    """In one sentence, at the step, as torch does: a model of meta tensors may be materialized before it."""
    device = "meta"
    assert device not in FUSED
    monkeypatch.setattr(
        torch.__future__, "_swap_module_params_on_conversion", True
    )  # parameters stay the same
    with torch.device(device):
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    optimizer = info.optim_cls(model.parameters(), fused=True)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    told = f"requires all the params to be floating point Tensors.*no fused backend for {device}.*fused=None"
    with pytest.raises(RuntimeError, match=f"`fused=True` {told}"):
        optimizer.step()
    assert not optimizer.state
    optimizer.zero_grad()
    model.to_empty(device="cpu")
    assert optimizer.param_groups[0]["params"][0] is model[0].weight
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
    train(optimizer, range(2))
    assert {int(s["step"]) for s in optimizer.state.values()} == {2}


@every_info
def test_a_lazy_parameter_is_left_alone_until_it_has_a_shape(info):
    for kind in KINDS:
        model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1))
        optimizer = info.optim_cls(model.parameters(), **of_kind(kind))
        set_gradients(model[1].parameters(), 0)
        optimizer.step()
        assert set(optimizer.state) == set(model[1].parameters())
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        assert set(optimizer.state) == set(model.parameters())


@every_info
def test_a_step_of_nothing_changes_nothing(info):
    """No gradients; zero gradients without decay; parameters of no elements; in every implementation."""
    for kwargs in flags(info):
        params = [p.detach() for p in parameters()]
        before = [p.clone() for p in params]
        optimizer = info.optim_cls(params, **kwargs)
        assert optimizer.step(lambda: 1) == 1
        assert not any(optimizer.state.values())
        if not kwargs.get("weight_decay"):
            for p in params:
                p.grad = torch.zeros_like(p)
            optimizer.step()
        assert_bitwise(params, before)
        empty = Parameter(torch.empty(3, 0))
        empties = [empty.clone() if kwargs["differentiable"] else empty]
        optimizer = info.optim_cls(empties, **kwargs)
        empties[0].grad = torch.empty(3, 0)
        optimizer.step()
        assert optimizer.state[empties[0]]["step"] == 1


@every_info
def test_it_is_printed_and_copied_with_all_that_is_public(info):
    for kwargs in flags(info):
        optimizer = info.optim_cls(parameters(), **kwargs)
        for name, value in optimizer.param_groups[0].items():
            assert name == "params" or f"{name}: {value}" in repr(optimizer)
        if not kwargs["differentiable"]:
            train(optimizer, range(3))
        public = [
            {k for k in vars(o) if not k.startswith("_")} for o in (optimizer, copy.deepcopy(optimizer))
        ]
        assert public[0] == public[1]


@every_info
@pytest.mark.parametrize("names", [(True, False), (False, True), (True, True)])
def test_names_are_kept_where_either_side_has_them(info, names):
    def named(params, yes):
        return [(f"p{i}", p) for i, p in enumerate(params)] if yes else params

    for entry in info.optim_inputs_func(device="cpu"):
        saved, loaded = (info.optim_cls(named(parameters(), yes), **entry.kwargs) for yes in names)
        train(saved, range(2))
        with torch.no_grad():
            for p, q in zip(loaded.param_groups[0]["params"], saved.param_groups[0]["params"], strict=True):
                p.copy_(q)
        loaded.load_state_dict(copy.deepcopy(saved.state_dict()))
        for o in (saved, loaded):
            train(o, range(2, 4))
        assert loaded.state_dict()["param_groups"][0]["param_names"] == ["p0", "p1", "p2"]
        assert_bitwise(snapshot(loaded), snapshot(saved))


@every_info
def test_hooks_of_all_optimizers_are_around_those_of_one(info):
    for kwargs in flags(info):
        seen = []
        optimizer = info.optim_cls([torch.ones(2)], **kwargs)
        handles = [
            register_optimizer_step_pre_hook(lambda *_: seen.append(0)),  # noqa: B023
            register_optimizer_step_post_hook(lambda *_: seen.append(3)),  # noqa: B023
            optimizer.register_step_pre_hook(lambda *_: seen.append(1)),  # noqa: B023
            optimizer.register_step_post_hook(lambda *_: seen.append(2)),  # noqa: B023
        ]
        try:
            optimizer.step()
        finally:
            for handle in handles:
                handle.remove()
        optimizer.step()
        assert seen == [0, 1, 2, 3]


@every_info
def test_hooks_of_the_state_see_and_change_it(info):
    """A key of a hook's own in the state is kept; a hook that is put in front is overruled by a later one."""
    for kwargs in flags(info):
        optimizer = info.optim_cls(parameters(), **kwargs)
        optimizer.register_state_dict_pre_hook(lambda o: o.state.__setitem__("note", 1))
        assert optimizer.state_dict()["state"]["note"] == 1

        optimizer = info.optim_cls(parameters(), **kwargs)
        state = optimizer.state_dict()

        def changed(o, given):
            given["param_groups"][0]["lr"] = 0.002

        def replaced(o, given):
            mine = copy.deepcopy(given)
            mine["param_groups"][0]["lr"] = 0.003
            return mine

        optimizer.register_load_state_dict_pre_hook(changed)
        optimizer.register_load_state_dict_post_hook(lambda o: o.state.__setitem__("note", True))
        optimizer.load_state_dict(state)
        assert optimizer.param_groups[0]["lr"] == 0.002
        assert optimizer.state["note"]
        optimizer.register_load_state_dict_pre_hook(replaced, prepend=True)
        optimizer.load_state_dict(state)
        assert optimizer.param_groups[0]["lr"] == 0.002
