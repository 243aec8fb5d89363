"""Gradient release: the same parameters as optimizer.step(), without the gradients' memory."""

import copy
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import aida
import members


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 2))


def backward(net, t):
    generator = torch.Generator().manual_seed(t)
    net(torch.randn(4, 6, generator=generator)).square().mean().backward()


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
        one.zero_grad()
        backward(nets[0], t)
        other.zero_grad()
        backward(nets[1], t)
        other.step()
    members.assert_bitwise(members.snapshot(one), members.snapshot(other))


def test_rounding_at_random_is_that_of_a_step():
    nets = model(), model()
    one, other = (aida.Aida(net.parameters(), lr=1e-2, state_dtype=torch.bfloat16) for net in nets)
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
        lambda _, optimizer: optimizer.zero_grad(set_to_none=False),
        lambda net, _: net[0].weight.grad.norm(),
    ],
    ids=["norm", "value", "accumulation", "zeros", "use"],
)
def test_use_of_a_gradient_that_is_gone_raises(released, misuse):
    net, optimizer = released
    backward(net, 0)
    before = members.snapshot(optimizer)
    with pytest.raises(
        RuntimeError, match="zero_grad\\(\\) before each backward; clipping by the global norm"
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
