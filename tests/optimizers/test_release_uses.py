"""Gradient release among what people do to models: frozen and cast parameters, hooks, zeros, its end."""

import gc
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer

import aida
from aida.optimizers.freed_gradient import FreedGradient
from helpers.members import assert_bitwise, assert_near, snapshot


def model(dtype=torch.float32):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def backward(net, t=0):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(t))
    net(x.to(net[0].weight.dtype)).float().square().mean().backward()


def twins(layers="tensor", dtype=torch.float32):
    """The first of them released; the second, its oracle, is eager and steps after backward."""
    nets = model(dtype), model(dtype)
    one = aida.Aida(nets[0].named_parameters(), lr=1e-2, layers=layers)
    other = aida.Aida(nets[1].named_parameters(), lr=1e-2, layers=layers, foreach=False)
    return nets, one, other


def count(optimizer):
    return {float(of_p["step"]) for of_p in optimizer.state.values()}


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this torch has no grad_dtype")
def test_gradients_of_another_type_than_their_parameter():
    nets, one, other = twins(dtype=torch.bfloat16)
    for net in nets:
        for p in net.parameters():
            p.grad_dtype = torch.float32
    with aida.release_gradients(one, nets[0]):
        for t in range(3):
            for net, optimizer in zip(nets, (one, other), strict=True):
                optimizer.zero_grad()
                backward(net, t)
            other.step()
            assert nets[0][0].weight.grad.dtype == torch.float32
    assert count(one) == {3.0}
    assert_near(snapshot(one), [x.double() for x in snapshot(other)], 2**-6)


@pytest.mark.parametrize("kind", ["integers", "inference"])
def test_what_can_never_need_a_gradient_is_left_alone(kind):
    net = model()
    with torch.inference_mode(kind == "inference"):
        x = torch.zeros(3, dtype=torch.int8 if kind == "integers" else torch.float32)
    net.register_parameter("table", nn.Parameter(x, requires_grad=False))
    optimizer = aida.Aida(net.parameters())
    with aida.release_gradients(optimizer, net):
        for t in range(2):
            optimizer.zero_grad()
            backward(net, t)
    assert count(optimizer) == {2.0}
    assert net.table not in optimizer.state


def test_hooks_that_are_registered_later_are_refused_before_the_next_backward():
    net = model()
    optimizer = aida.Aida(net.parameters())
    with aida.release_gradients(optimizer, net):
        hook = optimizer.register_step_pre_hook(lambda *_: None)
        with pytest.raises(ValueError, match=r"the optimizer has step hooks, .* or remove\(\) the handle"):
            optimizer.zero_grad()
        hook.remove()
        optimizer.zero_grad()


@pytest.mark.parametrize("when", ["pre", "post"])
def test_hooks_of_all_optimizers_are_refused(when):
    net = model()
    optimizer = aida.Aida(net.parameters())
    hook = getattr(torch_optimizer, f"register_optimizer_step_{when}_hook")(lambda *_: None)
    try:
        with pytest.raises(
            ValueError, match="torch has, for all optimizers, step hooks, which are never called"
        ):
            aida.release_gradients(optimizer, net)
    finally:
        hook.remove()
    with aida.release_gradients(optimizer, net):
        hook = getattr(torch_optimizer, f"register_optimizer_step_{when}_hook")(lambda *_: None)
        try:
            with pytest.raises(ValueError, match="torch has, for all"):
                optimizer.zero_grad()
        finally:
            hook.remove()


ZEROS = {
    "optimizer": lambda net, optimizer: optimizer.zero_grad(),
    "optimizer, zeros": lambda net, optimizer: optimizer.zero_grad(set_to_none=False),
    "model": lambda net, optimizer: net.zero_grad(),
    "by hand": lambda net, optimizer: [setattr(p, "grad", None) for p in net.parameters()],
}


@pytest.mark.parametrize("layers", ["tensor", "module"])
@pytest.mark.parametrize("how", ZEROS)
def test_every_way_to_take_gradients_away(how, layers):
    nets, one, other = twins(layers)
    aida.release_gradients(one, nets[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for t in range(3):
            ZEROS[how](nets[0], one)
            other.zero_grad()
            for net in nets:
                backward(net, t)
            other.step()
    assert_near(snapshot(one), [x.double() for x in snapshot(other)], 1e-6)


def test_a_layer_whose_tensors_come_in_two_backwards_is_refused_as_before():
    net = model()
    optimizer = aida.Aida(net.named_parameters(), layers="module")
    aida.release_gradients(optimizer, net)
    net[0].weight.sum().backward()
    with pytest.raises(
        RuntimeError, match="tensors of layer '0' have their gradients in different backwards"
    ):
        net[0].bias.sum().backward()


def test_after_its_end_gradients_are_there_again():
    nets, one, other = twins()
    with aida.release_gradients(one, nets[0]):
        backward(nets[0])
        assert isinstance(nets[0][0].weight.grad, FreedGradient)
    assert all(p.grad is None for p in nets[0].parameters())
    backward(nets[1])
    other.step()
    other.zero_grad()
    for net, optimizer in zip(nets, (one, other), strict=True):
        backward(net, 1)
        optimizer.step()
    assert_near(snapshot(one), [x.double() for x in snapshot(other)], 1e-6)


@pytest.mark.parametrize("move", [lambda net: net.cpu(), lambda net: net.double()], ids=["cpu", "double"])
def test_a_model_that_is_moved_with_freed_gradients_names_what_to_call(move):
    net = model()
    optimizer = aida.Aida(net.parameters())
    aida.release_gradients(optimizer, net)
    backward(net)
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match=r"Call optimizer\.zero_grad\(\) .* before the model is moved"):
        move(net)
    # torch has cast the first parameter by then
    assert_bitwise([x.to(b.dtype) for x, b in zip(snapshot(optimizer), before, strict=True)], before)
    optimizer.zero_grad()
    move(net)


def test_layers_that_groups_no_longer_have_are_let_go():
    net = model()
    optimizer = aida.Aida(net.parameters())
    aida.release_gradients(optimizer, net)
    for t in range(2):
        optimizer.zero_grad()
        backward(net, t)
    params = optimizer.param_groups[0]["params"]
    gone = [weakref.ref(x) for p in params[:2] for x in (p, *optimizer.state.pop(p).values())]
    del params[:2], params
    net[0] = nn.Linear(3, 4)
    optimizer.zero_grad()
    gc.collect()
    assert not any(ref() is not None for ref in gone)
    backward(net)
    assert count(optimizer) == {3.0}
