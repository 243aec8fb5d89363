"""Gradient release: the same parameters as optimizer.step(), without the gradients' memory."""

import copy
import gc
import os
import subprocess
import sys
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.utils.checkpoint import checkpoint

import aida
from aida.optimizers import release
from aida.optimizers.release import FreedGradient
from helpers import members


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 2))


def backward(net, t):
    generator = torch.Generator().manual_seed(t)
    net(torch.randn(4, 6, generator=generator)).square().mean().backward()


def released_and_stepped(nets, optimizers, t, run=backward):
    """The same step of both: in backward, and after it."""
    for net, optimizer in zip(nets, optimizers, strict=True):
        optimizer.zero_grad()
        run(net, t)
    optimizers[1].step()


@pytest.fixture
def released():
    net = model()
    optimizer = aida.Aida(net.parameters(), lr=1e-2)
    with aida.release_gradients(optimizer, net):
        yield net, optimizer


@pytest.mark.parametrize(
    "case", [(c, own) for c, settings in members.OWN.items() for own in settings], ids=members.name
)
def test_parameters_are_those_of_a_step(case):
    cls, kwargs = case
    nets = model(), model()
    groups = [
        [dict(params=[*net[:2].parameters()]), dict(params=[*net[2:].parameters()], lr=0.1)] for net in nets
    ]
    one, other = (cls(group, **{"lr": 1e-2, **kwargs}) for group in groups)
    aida.release_gradients(one, nets[0])
    for t in range(4):
        released_and_stepped(nets, (one, other), t)
    members.assert_bitwise(members.snapshot(one), members.snapshot(other))


@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
def test_rounding_at_random_is_that_of_a_step(state_dtype):
    nets = model(), model()
    one, other = (aida.Aida(net.parameters(), lr=1e-2, state_dtype=state_dtype) for net in nets)
    with aida.release_gradients(one, nets[0]):
        backward(nets[0], 0)
    backward(nets[1], 0)
    other.step()
    members.assert_bitwise(members.snapshot(one), members.snapshot(other))


def test_schedulers_change_the_rate_without_a_warning(released):
    net, optimizer = released
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backward(net, 0)
        scheduler.step()
    before = copy.deepcopy([*net.parameters()])
    optimizer.zero_grad()
    backward(net, 1)
    members.assert_bitwise([p.detach() for p in net.parameters()], [p.detach() for p in before])


@pytest.mark.parametrize(
    "misuse",
    [
        lambda net, _: nn.utils.clip_grad_norm_(net.parameters(), 1.0),
        lambda net, _: nn.utils.clip_grad_value_(net.parameters(), 1.0),
        lambda net, _: backward(net, 1),
        lambda net, _: net[0].weight.grad.norm(),
    ],
    ids=["norm", "value", "accumulation", "use"],
)
def test_use_of_a_gradient_that_is_gone_raises(released, misuse):
    net, optimizer = released
    backward(net, 0)
    before = members.snapshot(optimizer)
    with pytest.raises(
        RuntimeError, match=r"optimizer\.zero_grad\(\) before each backward, .*; clipping by the global norm"
    ):
        misuse(net, optimizer)
    members.assert_bitwise(members.snapshot(optimizer), before)
    assert repr(net[0].weight.grad) == "FreedGradient(shape=(7, 6))"


def test_step_raises_until_removed():
    net = model()
    optimizer = aida.Aida(net.parameters())
    handle = aida.release_gradients(optimizer, net)
    with pytest.raises(RuntimeError, match=r"remove this call of optimizer.step\(\)"):
        optimizer.step()
    handle.remove()
    backward(net, 0)
    before = members.snapshot(optimizer)
    optimizer.step()
    assert len(members.snapshot(optimizer)) > len(before)


def test_a_handle_ends_its_own_release_alone():
    net = model()
    optimizer = aida.Aida(net.parameters(), lr=1e-2)
    first = aida.release_gradients(optimizer, net)
    first.remove()
    with aida.release_gradients(optimizer, net) as second:
        first.remove()
        assert optimizer.released_by is second
        backward(net, 0)
        assert float(optimizer.state[net[0].weight]["step"]) == 1
    assert optimizer.released_by is None


def test_models_that_cannot_be_released_are_refused():
    net = model()
    with pytest.raises(TypeError, match="not Adam"):
        aida.release_gradients(torch.optim.Adam(net.parameters()), net)
    with pytest.raises(ValueError, match="2 of the model's 6 trainable parameters"):
        aida.release_gradients(aida.Aida(net[:3].parameters()), net)
    backward(net, 0)
    with pytest.raises(ValueError, match="gradients already"):
        aida.release_gradients(aida.Aida(net.parameters()), net)


PEAK = """
import sys, torch, aida
torch.set_num_threads(1)
net = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(24)))
optimizer = aida.AdaBelief(net.parameters(), foreach=False)
if sys.argv[1] == "release":
    aida.release_gradients(optimizer, net)
x = torch.ones(1, 1024)
for _ in range(2):  # moments come with the first step
    optimizer.zero_grad()
    net(x).sum().backward()
    if sys.argv[1] == "step":
        optimizer.step()
# Of this program alone: getrusage counts the peak of the process that started it, too.
print(*(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if line.startswith('VmHWM')))
"""


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="measures with glibc and /proc")
def test_peak_memory_is_less_by_almost_all_gradients():
    """24 layers of 4 MiB: parameters and moments are 288 MiB, gradients 96 more."""
    peak = {}
    for way in ("step", "release"):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, way],
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed goes back to the system
            capture_output=True,
            text=True,
            check=True,
        )
        peak[way] = int(done.stdout)
    # Measured: 93 MiB.
    assert peak["step"] - peak["release"] > 0.75 * 24 * 4 * 2**20


def test_models_are_let_go_of():
    """Hooks are kept by torch, out of the garbage collector's sight: they must not hold the model."""
    net = model()
    optimizer = aida.Aida(net.parameters())
    aida.release_gradients(optimizer, net)
    backward(net, 0)
    gone = [weakref.ref(x) for x in (optimizer, net, net[0].weight)]
    del net, optimizer
    gc.collect()
    assert [x() for x in gone] == [None] * 3


def test_an_optimizer_that_is_gone_trains_nothing_more():
    net = model()
    aida.release_gradients(aida.Aida(net.parameters()), net)
    gc.collect()
    backward(net, 0)
    assert all(p.grad is not None and not isinstance(p.grad, FreedGradient) for p in net.parameters())


def test_a_second_call_is_the_first(released):
    net, optimizer = released
    handle = aida.release_gradients(optimizer, net)
    assert handle is aida.release_gradients(optimizer, net)
    backward(net, 0)
    assert {float(of_p["step"]) for of_p in optimizer.state.values()} == {1.0}


def test_what_is_unfrozen_or_added_later_is_trained():
    nets = model(), model()
    optimizers = [aida.Aida(net[2:].parameters(), lr=1e-2) for net in nets]
    for net in nets:
        net[0].requires_grad_(False)
        net[2].weight.requires_grad_(False)
    aida.release_gradients(optimizers[0], nets[0])
    for t in range(6):
        for i, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
            if t == 2:
                net[2].weight.requires_grad_(True)
            if t == 4:
                net[0].requires_grad_(True)
                optimizer.add_param_group({"params": [*net[0].parameters()]})
            optimizer.zero_grad()
            backward(net, t)
            if i:
                optimizer.step()
    members.assert_bitwise(members.snapshot(optimizers[0]), members.snapshot(optimizers[1]))


def test_groups_may_be_sorted_removed_and_given_other_parameters():
    def train(released):
        net = model()
        groups = [dict(params=[*net[i].parameters()], lr=lr) for i, lr in ((0, 1e-3), (2, 1e-1), (4, 1e-2))]
        optimizer = aida.Aida(groups)
        if released:
            aida.release_gradients(optimizer, net)
        edits = {
            1: optimizer.param_groups.reverse,
            2: lambda: optimizer.param_groups.pop(1),
            3: lambda: optimizer.param_groups[0]["params"].reverse(),
            4: lambda: optimizer.param_groups[1]["params"].__setitem__(0, net[2].weight),
        }
        for t in range(6):
            edits.get(t, list)()
            optimizer.zero_grad()
            net.zero_grad()
            backward(net, t)
            if not released:
                optimizer.step()
        return [*net.parameters()]

    for ours, theirs in zip(train(True), train(False), strict=True):
        assert torch.equal(ours, theirs)


def test_parameters_that_are_all_replaced_are_trained_from_the_next_zero_grad_on():
    def replaced(optimizer):
        new = [nn.Parameter(p.detach().clone()) for p in optimizer.param_groups[0]["params"]]
        optimizer.param_groups[0]["params"] = new
        return new

    optimizer = aida.Aida(members.parameters([(3,), (2, 2)]), lr=0.1)
    aida.release_gradients(optimizer, nn.ParameterList(optimizer.param_groups[0]["params"]))
    optimizer.zero_grad()
    params = replaced(optimizer)
    before = [p.detach().clone() for p in params]
    sum(p.sum() for p in params).backward()  # no watched parameter is there to tell of it
    members.assert_bitwise([p.detach() for p in params], before)
    with pytest.warns(UserWarning, match=r"stepped nothing, and left gradients in 2 of.*before zero_grad"):
        optimizer.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            sum(p.sum() for p in params).backward()
            assert not any(torch.equal(p, b) for p, b in zip(params, before, strict=True))
            params = replaced(optimizer)
            optimizer.zero_grad()


def test_a_backward_that_failed_is_not_told_of_twice(released):
    net, optimizer = released
    hook = net[2].weight.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backward(net, 0)
    hook.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.zero_grad()
        backward(net, 0)
        optimizer.zero_grad()


def test_step_hooks_are_refused():
    net = model()
    optimizer = aida.Aida(net.parameters())
    optimizer.register_step_post_hook(lambda *_: None)
    with pytest.raises(ValueError, match="step hooks, which are never called"):
        aida.release_gradients(optimizer, net)


def test_a_state_dict_before_the_first_backward_and_after_the_end():
    """Checkpoint tools step with zero gradients to make a state: that makes what is missing, no more."""
    net = model()
    optimizer = aida.Aida(net.parameters(), lr=1e-2)
    with aida.release_gradients(optimizer, net):
        saved = get_optimizer_state_dict(net, optimizer)
        set_optimizer_state_dict(net, optimizer, saved)
        assert {float(of_p["step"]) for of_p in optimizer.state.values()} == {0.0}
        backward(net, 0)
    optimizer.zero_grad()
    get_optimizer_state_dict(net, optimizer)
    assert {float(of_p["step"]) for of_p in optimizer.state.values()} == {1.0}


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_and_tied_weights(reentrant):
    def run(net, t):
        generator = torch.Generator().manual_seed(t)
        x = torch.randn(4, 6, generator=generator, requires_grad=True)
        x = checkpoint(net[:2], x, use_reentrant=reentrant)
        x = checkpoint(net[2:4], x, use_reentrant=reentrant)
        nn.functional.linear(net[4](x), net[4].weight.t()).square().mean().backward()

    nets = model(), model()
    one, other = (aida.Aida(net.parameters(), lr=1e-2) for net in nets)
    aida.release_gradients(one, nets[0])
    for t in range(3):
        released_and_stepped(nets, (one, other), t, run)
    members.assert_bitwise(members.snapshot(one), members.snapshot(other))


def test_many_small_layers_share_steps_and_large_ones_do_not_wait(monkeypatch):
    monkeypatch.setattr(release, "WAITING_BYTES", 4 * 49)  # of the middle layer's weight
    nets = model(), model()
    one, other = (aida.Aida(net.parameters(), lr=1e-2) for net in nets)
    steps = []
    step_layers = one.step_layers
    monkeypatch.setattr(one, "step_layers", lambda some: steps.append(len(some)) or step_layers(some))
    aida.release_gradients(one, nets[0])
    backward(nets[0], 0)
    backward(nets[1], 0)
    other.step()
    assert steps[0] < 6
    assert sum(steps) == 6
    members.assert_bitwise(members.snapshot(one), members.snapshot(other))


def test_a_backward_that_fails_leaves_the_next_one_whole():
    net, twin = model(), model()
    one, other = (aida.Aida(n.parameters(), lr=1e-2) for n in (net, twin))
    aida.release_gradients(one, net)
    hook = net[2].weight.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backward(net, 0)
    hook.remove()
    one.zero_grad()
    backward(net, 1)
    backward(twin, 1)
    other.step()
    members.assert_bitwise(members.snapshot(one), members.snapshot(other))


def test_a_large_parameter_that_stands_twice_is_stepped_twice(monkeypatch):
    monkeypatch.setattr(release, "WAITING_BYTES", 1)
    nets = model(), model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of a parameter that stands twice
        one, other = (aida.Aida([*net.parameters(), net[2].weight], lr=1e-2) for net in nets)
    aida.release_gradients(one, nets[0])
    for t in range(2):
        released_and_stepped(nets, (one, other), t)
    members.assert_bitwise(members.snapshot(one), members.snapshot(other))
    assert float(one.state[nets[0][2].weight]["step"]) == 4
