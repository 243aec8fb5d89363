"""A step that one rank refuses, groups that shard nothing, and layers that ranks reach differently."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import aida
from aida import sharding
from helpers.members import snapshot
from helpers.sharding.common import (
    LIMIT,
    batch,
    equal_on_ranks,
    loss,
    mine,
    net,
    reference,
    train,
    whole,
    worst,
)
from helpers.sharding.launch import on_ranks


def local_snapshot(optimizer):
    return [x.to_local().clone() if hasattr(x, "to_local") else x for x in snapshot(optimizer)]


@on_ranks(2)
def a_step_that_one_rank_refuses_is_taken_by_none():
    """Sums of r^2 and of stepsizes, the two messages, and both; afterwards training goes on."""
    post = {"layerwise": "post"}
    for cls, options in ((aida.Aida, {}), (aida.LAdam, post), (aida.LAida, post)):
        model = net()
        expected = reference(model, lambda p, cls=cls, options=options: cls(p, lr=1e-3, **options), range(4))
        fully_shard(model)
        optimizer = cls(model.parameters(), lr=1e-3, **options)
        train(model, optimizer, steps=range(2))
        loss(model, mine(batch(100))).backward()
        state = optimizer.state[model.up.weight]
        kept = state["exp_avg"]
        if dist.get_rank() == 1:
            del state["exp_avg"]
        before = [p.to_local().clone() for p in model.parameters()]
        words = "has no tensor 'exp_avg'" if dist.get_rank() == 1 else "another rank has refused"
        with pytest.raises(RuntimeError, match=words):
            optimizer.step()
        assert all(torch.equal(p.to_local(), b) for p, b in zip(model.parameters(), before, strict=True))
        assert {float(s["step"]) for s in optimizer.state.values()} == {2.0}
        state["exp_avg"] = kept
        train(model, optimizer, steps=range(2, 4))
        assert worst(model.parameters(), expected) <= LIMIT


@on_ranks(2)
def a_piece_that_stands_twice_and_has_a_gradient_on_one_rank_alone():
    """Every rank sends as many messages: a wave more on one would wait for the other's, for ever."""
    mesh = init_device_mesh("cpu", (2,))
    for cls, options in ((aida.Aida, {}), (aida.LAida, {"layerwise": "post"})):
        values, gradient = torch.linspace(-1, 1, 12).view(4, 3), torch.linspace(1, 2, 12).view(4, 3)
        gradient[2:] = 0
        plain = nn.Parameter(values.clone())
        piece = nn.Parameter(distribute_tensor(values, mesh, (Shard(0),)))
        views = [nn.Parameter(x) for x in torch.ones(2, 3)[[0, 0]].unbind()]
        if dist.get_rank() == 0:  # which share memory on this rank alone
            views[1].data = views[0].data
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours, one = (cls([p, *views, p], lr=1e-3, **options) for p in (piece, plain))
        for _ in range(3):
            plain.grad = gradient
            for view in views:
                view.grad = torch.ones_like(view)
            if dist.get_rank() == 0:
                piece.grad = DTensor.from_local(gradient[:2].clone(), mesh, (Shard(0),), run_check=False)
            with CommDebugMode() as counter:
                ours.step()
            assert equal_on_ranks([torch.tensor(float(counter.get_total_counts()))])
            assert counter.get_total_counts() == (4 if options else 2)
            one.step()
        mine_ = slice(0, 2) if dist.get_rank() == 0 else slice(2, 4)
        expected = plain.detach()[mine_] if dist.get_rank() == 0 else values[mine_]
        assert (piece.to_local() - expected).abs().max() <= LIMIT


@on_ranks(2)
def a_rule_that_fails_on_every_rank_leaves_no_message_behind():
    model = net()
    fully_shard(model)
    calls = [0]

    def rule(gg, gm, mm):
        calls[0] += 1
        return (1 / (calls[0] - 3), 0 * gg + 1)

    cls = type("Own", (aida.LAida,), {"rule": staticmethod(rule)})
    optimizer = cls(model.parameters(), lr=1e-3, layerwise="post")
    train(model, optimizer, steps=range(2))
    before = local_snapshot(optimizer)
    with pytest.raises(ZeroDivisionError):
        train(model, optimizer, steps=range(2, 3))
    assert all(map(torch.equal, local_snapshot(optimizer), before))
    train(model, optimizer, steps=range(3, 5))
    assert {float(s["step"]) for s in optimizer.state.values()} == {4.0}


@on_ranks(2)
def where_nothing_is_sharded_a_process_group_changes_nothing():
    """A parameter may be replaced by one of another shape, and nothing is gathered twice."""
    model = nn.Linear(4, 3, bias=False)
    optimizer = aida.Aida(model.parameters(), lr=0.1)
    for _ in range(3):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
    (found,) = optimizer._layers._found.values()
    (batch_,) = found.batches
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    assert next(iter(optimizer._layers._found.values())).batches[0] is batch_
    grown = nn.Parameter(torch.zeros(5, 4))
    optimizer.param_groups[0]["params"][0] = grown
    grown.grad = torch.ones_like(grown)
    optimizer.step()
    assert grown.all()
    flat = nn.Parameter(torch.zeros(7))  # what DeepSpeed swaps in
    optimizer.param_groups[0]["params"][0] = flat
    flat.grad = torch.ones_like(flat)
    with pytest.raises(RuntimeError, match="statistics of whole layers are lost"):
        optimizer.step()


@on_ranks(2, 3)
def released_layers_that_ranks_reach_in_another_order_or_not_at_all():
    """Stochastic depth: as one process that averages what ranks reach, zeros for the others, bit for bit."""
    rank, world = dist.get_rank(), dist.get_world_size()
    layers = nn.ModuleList([nn.Linear(4, 4, bias=i % 2 == 0) for i in range(5)])
    for p in layers.parameters():
        dist.broadcast(p.data, 0)
    twin = copy.deepcopy(layers)
    optimizer = aida.Aida(layers.parameters(), lr=0.1)
    plain = aida.Aida(twin.parameters(), lr=0.1)

    def run(model: nn.Module, t: int, of_rank: int) -> torch.Tensor:
        order = torch.randperm(4, generator=torch.Generator().manual_seed(10 * t + of_rank))[: 2 + t % 2]
        x = batch(t, features=4)[of_rank::world]
        for i in order.tolist():  # the last layer is reached by no rank
            x = torch.tanh(model[i](x))
        return x.square().mean()

    with aida.release_gradients(optimizer, layers, process_group=dist.group.WORLD):
        for t in range(6):
            optimizer.zero_grad()
            run(layers, t, rank).backward()
            assert equal_on_ranks(layers.parameters())
            plain.zero_grad()
            of_ranks = []
            for other in range(world):
                run(twin, t, other).backward()
                of_ranks.append([p.grad for p in twin.parameters()])
                plain.zero_grad()
            for p, *grads in zip(twin.parameters(), *of_ranks, strict=True):
                if any(g is not None for g in grads):
                    p.grad = sum(g for g in grads if g is not None) / world
            plain.step()
    assert worst(layers.parameters(), twin.parameters()) <= LIMIT
    counts = [[float(o.state[p]["step"]) if p in o.state else 0 for p in m.parameters()]
              for o, m in ((optimizer, layers), (plain, twin))]  # fmt: skip
    assert counts[0] == counts[1]
    assert counts[0][-1] == 0
    assert whole(layers[4].weight).equal(twin[4].weight)


@on_ranks(2)
def a_backward_that_ended_early_is_told_once():
    """What it left would be taken for the next one's, for ever."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = aida.Aida(model.parameters(), lr=0.1)
    aida.release_gradients(optimizer, model, process_group=dist.group.WORLD)
    hook = model[0].weight.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(batch(0, features=4)).sum().backward()
    hook.remove()
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="ended early on this rank"):
        model(batch(0, features=4)).sum().backward()
    for t in range(2):
        optimizer.zero_grad()
        model(mine(batch(t, features=4))).sum().backward()
    assert equal_on_ranks(model.parameters())


@on_ranks(2)
def groups_may_be_removed_moved_and_added():
    """Nothing is sharded, and shapes are known by the places that groups had."""
    groups = [{"params": [nn.Parameter(torch.ones(shape))]} for shape in ((3, 3), (4,), (5,), (2, 2))]
    optimizer = aida.Aida(groups)

    def step():
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            p.grad = torch.ones_like(p)
        optimizer.step()

    step()
    optimizer.param_groups.pop(0)
    step()
    optimizer.param_groups.reverse()
    step()
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(6))]})
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [nn.Parameter(torch.ones(7, 7))]})
    step()
    assert [float(s["step"]) for s in optimizer.state.values()] == [1, 4, 4, 4, 1, 1]


@on_ranks(2)
def a_backward_that_reaches_no_layer_of_the_optimizer_sends_nothing():
    """Its parameters have left the groups between zero_grad() and the end of backward."""
    model = nn.Linear(4, 4)
    optimizer = aida.Aida(model.parameters(), lr=0.1)
    with aida.release_gradients(optimizer, model, process_group=dist.group.WORLD):
        optimizer.zero_grad()
        output = model(batch(0, features=4)).sum()
        params, optimizer.param_groups[0]["params"] = optimizer.param_groups[0]["params"], []
        with CommDebugMode() as messages:
            output.backward()
        assert messages.get_total_counts() == 0
        assert not optimizer.state
        optimizer.param_groups[0]["params"] = params
        optimizer.zero_grad()
        model(mine(batch(0, features=4))).sum().backward()
    assert {float(of_p["step"]) for of_p in optimizer.state.values()} == {1}
    assert equal_on_ranks(model.parameters())


@on_ranks(3)
def a_rank_outside_of_the_mesh_sends_nothing_and_waits_for_nobody():
    mesh = DeviceMesh("cpu", [0, 1])
    params = [nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)]))]
    groups = sharding.process_groups(params[0])
    assert [group.size() for group in groups] == ([2] if dist.get_rank() < 2 else [])
    start = sharding.start(params[0], sharding.shard(params[0]))
    assert start == (2 * dist.get_rank(), 0) if dist.get_rank() < 2 else not any(start)
    optimizer = aida.Aida(params, lr=0.1)
    if dist.get_rank() < 2:
        params[0].grad = distribute_tensor(torch.arange(12.0).view(4, 3), mesh, [Shard(0)])
    with CommDebugMode() as messages:
        optimizer.step()
    assert (messages.get_total_counts() > 0) == (dist.get_rank() < 2)


@on_ranks(2)
def a_step_without_gradients_warns_where_something_is_trained():
    p, q = nn.Parameter(torch.ones(3), requires_grad=False), nn.Parameter(torch.ones(0))
    optimizer = aida.Aida([p, q])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    p.requires_grad_(True)
    with pytest.warns(UserWarning, match="none of the optimizer's 1 parameters has a gradient"):
        optimizer.step()
