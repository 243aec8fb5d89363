"""torch.compile of a step: the same numbers, and no recompile when a scheduler changes a tensor lr."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim.lr_scheduler import ExponentialLR

import aida
from helpers.members import MEMBERS, assert_near, parameters, set_gradients, snapshot
from helpers.own_members import Damped, made

LOW = dict(state_dtype=torch.bfloat16, stochastic_rounding=True)
CASES = [
    (aida.AdamPlus, dict(weight_decay=0.1, decoupled_weight_decay=True)),
    (aida.LAdaBelief, dict(layerwise="post", rectify=True)),
    (aida.LAida, dict(weight_decay=0.1)),
    (aida.Aida, dict(capturable=True, maximize=True)),
    (aida.Aida, LOW),
    (aida.Aida, dict(state_dtype="int8")),
    (Damped, dict(power=0.5)),
    (Damped, LOW),
    (made(rule=lambda dd, gm: (gm / (dd + gm.abs() + 1e-30), 1.0)), dict(capturable=True, **LOW)),
]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def run(cls, arguments, *, backend=None, steps=4, lr=0.02, tensor_lr=True):
    """Train with a falling lr; the optimizer, and the graphs compiled up to each step but the first.

    The first step, which makes the state, is not compiled: it would be one more graph.
    """
    params = parameters(dtype=torch.float64)
    lr = torch.tensor(lr, dtype=torch.float64) if tensor_lr else lr
    optimizer = cls(params, lr=lr, foreach=True, **arguments)
    schedule = ExponentialLR(optimizer, 0.5)
    counter = CompileCounterWithBackend(backend) if backend else None
    compiled = torch.compile(lambda: optimizer.step(), backend=counter) if counter else optimizer.step
    graphs = []
    for t in range(steps):
        set_gradients(params, t)
        (compiled if t else optimizer.step)()
        schedule.step()
        graphs.append(counter.frame_count if counter else 0)
    return optimizer, graphs[1:]


@pytest.mark.parametrize(("cls", "arguments"), CASES)
def test_the_compiled_step_is_the_step_and_compiles_once(cls, arguments):
    plain, _ = run(cls, arguments)
    compiled, graphs = run(cls, arguments, backend="aot_eager")
    assert graphs[0] > 0
    assert len(set(graphs)) == 1
    assert float(compiled.param_groups[0]["lr"]) == pytest.approx(0.02 / 16)
    assert_near(snapshot(compiled), snapshot(plain), 1e-13)


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("cls", MEMBERS)
def test_a_plain_step_is_two_graphs_at_most(cls, foreach):
    """The first step, which makes the state, and all others."""
    counter = CompileCounterWithBackend("eager")
    optimizer = cls(parameters(), lr=torch.tensor(0.02), foreach=foreach)
    compiled = torch.compile(lambda: optimizer.step(), backend=counter)
    for t in range(4):
        set_gradients(optimizer.param_groups[0]["params"], t)
        compiled()
    assert 1 <= counter.frame_count <= 2


def test_a_float_lr_does_recompile():
    """Negative control: what the count above would show."""
    _, graphs = run(aida.Aida, {}, backend="eager", tensor_lr=False)
    assert len(set(graphs)) > 1


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, LOW])
def test_the_default_compiler(arguments):
    plain, _ = run(aida.Aida, arguments)
    compiled, graphs = run(aida.Aida, arguments, backend="inductor")
    assert len(set(graphs)) == 1
    assert_near(snapshot(compiled), snapshot(plain), 1e-12)
