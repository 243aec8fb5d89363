"""Every member, backend and placement, with gradients that are given: only the sums can differ."""

from __future__ import annotations

import copy
import pickle
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import aida
from aida.sharding import LayerReduction
from helpers.members import OWN, set_gradients
from helpers.own_members import Damped, Mixing
from helpers.sharding.common import LIMIT, STEPS, mine, raises, whole, worst
from helpers.sharding.launch import on_ranks
from helpers.sharding.layouts import parameters, run, shard, tensors

MEMBERS = [(cls, own) for cls, settings in OWN.items() for own in settings]
MEMBERS += [(Damped, {"power": 0.5}), (Mixing, {})]
FOUR = {
    "S0S0": (Shard(0), Shard(0)),
    "S0S1": (Shard(0), Shard(1)),
    "S1R": (Shard(1), Replicate()),
    "RS0": (Replicate(), Shard(0)),
    "RR": (Replicate(), Replicate()),
}


def backends() -> list[dict]:
    """Arguments that choose each backend that is built for the CPU."""
    found = [dict(foreach=False), dict(foreach=True)]
    try:
        p = torch.nn.Parameter(torch.ones(2))
        p.grad = torch.ones(2)
        aida.Aida([p], fused=True).step()
    except RuntimeError:
        return found
    return [*found, dict(fused=True)]


@on_ranks(2, 4)
def every_member_and_backend_with_uneven_and_empty_shards():
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for cls, own in MEMBERS:
        kwargs = dict(own, weight_decay=0.05)
        expected, _ = run(cls, foreach=False, **kwargs)
        for backend in backends():
            found, optimizer = run(cls, mesh, (Shard(0),), **kwargs, **backend)
            assert worst(found, expected) <= LIMIT, (cls, own, backend, worst(found, expected))
            for p in found:
                for name in ("exp_avg", "exp_avg_var"):
                    moment = optimizer.state[p][name]
                    pooled = name == "exp_avg_var" and optimizer.param_groups[0].get("layerwise") == "pre"
                    assert isinstance(moment, DTensor) == (isinstance(p, DTensor) and not pooled)
                    assert moment.shape == (() if pooled else p.shape)


@on_ranks(2)
def other_dimensions_and_moments_in_bfloat16():
    mesh = init_device_mesh("cpu", (2,))
    for cls in (aida.Aida, aida.LAdam):
        expected, _ = run(cls)
        found, _ = run(cls, mesh, (Shard(1),))
        assert worst(found, expected) <= LIMIT
        _, optimizer = run(cls, mesh, (Shard(0),), steps=2, state_dtype=torch.bfloat16)
        assert all(s["exp_avg"].dtype == torch.bfloat16 for s in optimizer.state.values())


@on_ranks(4)
def five_placements_on_a_mesh_of_two_by_two():
    mesh = init_device_mesh("cpu", (2, 2))
    for cls, own in [(aida.Aida, {}), (aida.LAdaBelief, {}), (aida.LAida, dict(layerwise="post"))]:
        expected, _ = run(cls, **own)
        for name, placements in FOUR.items():
            found, _ = run(cls, mesh, placements, **own)
            assert worst(found, expected) <= LIMIT, (cls, name, worst(found, expected))


@on_ranks(2)
def elements_that_never_moved_are_left_out_of_post_on_every_rank():
    """All, or all but one row, of one rank's shard are zero; and a layer without any gradient but zero."""
    mesh = init_device_mesh("cpu", (2,))
    for used in (range(1), range(4), range(3, 4), range(8), range(0)):
        for backend in backends():
            plain = torch.nn.Parameter(torch.ones(8, 3))
            piece = torch.nn.Parameter(distribute_tensor(torch.ones(8, 3), mesh, (Shard(0),)))
            options = dict(layerwise="post", lr=1e-3, weight_decay=0.1, decoupled_weight_decay=True)
            ours, one = (
                aida.LAida([piece], **options, **backend),
                aida.LAida([plain], **options, foreach=False),
            )
            for t in range(3):
                set_gradients([plain], t)
                plain.grad[[row for row in range(8) if row not in used]] = 0
                piece.grad = distribute_tensor(plain.grad, mesh, (Shard(0),))
                ours.step()
                one.step()
            assert worst([piece], [plain]) <= LIMIT, (used, backend)
            assert (plain.detach() - 1).abs().max() < 0.02, "a mean over all elements moves 0.1"


@on_ranks(4)
def raw_sums_are_those_of_whole_tensors():
    """Parameters alone would not tell: the coefficients stay if all sums of a layer are scaled together."""
    mesh = init_device_mesh("cpu", (2, 2))
    seen = []
    original = LayerReduction.__call__

    def record(self, sums):
        sums = list(sums)
        original(self, sums)
        seen.extend(
            (id(p), torch.tensor(row, dtype=torch.float64))
            for params, rows in sums
            for p, row in zip(params, torch.as_tensor(rows).tolist(), strict=True)
        )

    for name, placements in FOUR.items():
        seen.clear()
        with mock.patch.object(LayerReduction, "__call__", record):
            params, _ = run(aida.LAida, mesh, placements, steps=1)  # asks for all four sums
        rows = dict(seen)
        assert bool(rows) == (name != "RR")  # there each rank has the whole, and nothing is sent
        for p, g in zip(params, tensors(0), strict=True):
            gg, mm = g.double().square().sum(), (0.1 * g.double()).square().sum()
            gm, dd = (0.1 * g.double() * g.double()).sum(), (0.9 * g.double()).square().sum()
            if rows:
                torch.testing.assert_close(rows[id(p)], torch.stack([gg, gm, mm, dd]), rtol=1e-6, atol=0)


@on_ranks(2)
def sums_of_pieces_alone_are_seen():
    """Negative control: without the reduction the parameters end far away."""
    mesh = init_device_mesh("cpu", (2,))
    for cls, own in [(aida.Aida, {}), (aida.LAdam, {}), (aida.LAdam, dict(layerwise="post"))]:
        expected, _ = run(cls, **own)
        with mock.patch.object(LayerReduction, "__call__", return_value=None):
            found, _ = run(cls, mesh, (Shard(0),), **own)
        assert worst(found, expected) > 1000 * LIMIT, cls


@on_ranks(4)
def messages_are_counted():
    """One a process group for coefficients or for "pre", one for "post"; none where nothing is summed."""
    one, two = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
    post = dict(layerwise="post")
    for expected, cls, own, mesh, placements in [
        (1, aida.Aida, {}, one, (Shard(0),)),
        (1, aida.Aida, {}, two, (Replicate(), Shard(0))),
        (2, aida.Aida, {}, two, (Shard(0), Shard(1))),
        (0, aida.Aida, {}, two, (Replicate(), Replicate())),
        (0, aida.Aida, {}, None, ()),
        (0, aida.Aida, dict(K=0), one, (Shard(0),)),
        (0, aida.AdaBelief, {}, one, (Shard(0),)),
        (1, aida.LAdam, {}, one, (Shard(0),)),
        (1, aida.LAdam, post, one, (Shard(0),)),
        (2, aida.LAida, post, one, (Shard(0),)),
    ]:
        _, optimizer = run(cls, mesh, placements, steps=1, **own)
        with CommDebugMode() as counter:
            optimizer.step()
        assert counter.get_total_counts() == expected, (cls, own, placements, counter.get_total_counts())


@on_ranks(2)
def messages_have_the_sizes_that_the_page_counts():
    """4 numbers per layer for gram, 2 for "post", and one row more."""
    mesh, post = init_device_mesh("cpu", (2,)), dict(layerwise="post")
    for numbers, cls, own in [
        ([4], aida.Aida, {}),
        ([4], aida.LAdam, {}),
        ([2], aida.LAdam, post),
        ([4, 2], aida.LAida, post),
    ]:
        params, optimizer = run(cls, mesh, (Shard(0),), steps=1, **own)
        count = sum(isinstance(p, DTensor) and p.placements[0].is_shard() for p in params)
        assert count >= 6
        with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as sent:
            optimizer.step()
        sizes = [call.args[0].numel() for call in sent.call_args_list]
        assert sizes == [(count + 1) * n for n in numbers], (cls, own, sizes)
        assert {call.args[0].dtype for call in sent.call_args_list} == {torch.float64}


@on_ranks(4)
def one_message_for_both_meshes_of_a_data_parallel_group():
    """Layers under TP and FSDP, beside layers under FSDP alone: two messages in all."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    values = [torch.randn(8, 4), torch.randn(6)]
    params = [
        torch.nn.Parameter(distribute_tensor(values[0], mesh, (Shard(0), Shard(1)))),
        torch.nn.Parameter(distribute_tensor(values[1], mesh["data"], (Shard(0),))),
    ]
    plain = [torch.nn.Parameter(x.clone()) for x in values]
    optimizers = [aida.Aida(params), aida.Aida(plain)]
    for p, q in zip(params, plain, strict=True):
        q.grad = torch.ones_like(q).cumsum(0)
        p.grad = distribute_tensor(q.grad, p.device_mesh, p.placements)
    with CommDebugMode() as counter:
        for optimizer in optimizers:
            optimizer.step()
    assert counter.get_total_counts() == 2
    assert worst(params, plain) <= LIMIT


@on_ranks(2)
def gradients_of_other_placements_are_redistributed():
    mesh = init_device_mesh("cpu", (2,))
    x, g = torch.randn(5, 3), torch.randn(5, 3)
    plain = torch.nn.Parameter(x.clone())
    plain.grad = g
    aida.Aida([plain]).step()
    partial = DTensor.from_local(g * (0.25 if dist.get_rank() else 0.75), mesh, [Partial()], run_check=False)
    for gradient in (
        distribute_tensor(g, mesh, [Replicate()]),
        distribute_tensor(g, mesh, [Shard(1)]),
        partial,
    ):
        p = torch.nn.Parameter(distribute_tensor(x, mesh, [Shard(0)]))
        p.grad = gradient
        aida.Aida([p]).step()
        assert worst([p], [plain]) <= LIMIT, gradient.placements


@on_ranks(2)
def gradient_on_one_rank_alone():
    """Every rank sends its message, and a layer's sums are those of the gradients there are."""
    mesh = init_device_mesh("cpu", (2,))
    params = parameters(mesh, (Shard(0),))
    optimizer = aida.Aida(params, lr=1e-3)
    before = [whole(p).clone() for p in params]
    for t in range(3):
        for p, g in zip(params, tensors(t), strict=True):
            p.grad = shard(g, mesh, (Shard(0),))
        if dist.get_rank() == 1:
            params[0].grad = None
            if t == 1:
                optimizer.zero_grad()
        optimizer.step()
    assert params[0] in optimizer.state or dist.get_rank() == 1
    assert all(torch.isfinite(whole(p)).all() for p in params)
    moved = whole(params[0]) != before[0]
    assert moved[:4].all()
    assert not moved[4:].any()


@on_ranks(2)
def frozen_unused_and_several_groups():
    mesh = init_device_mesh("cpu", (2,))
    results = []
    for sharded in (True, False):
        params = parameters(mesh, (Shard(0),)) if sharded else [torch.nn.Parameter(x) for x in tensors()]
        params[1].requires_grad_(False)
        groups = [
            dict(params=params[:3]),
            dict(params=params[3:5], lr=2e-3, K=1),
            dict(params=params[5:], K=0, weight_decay=0.1),
        ]
        optimizer = aida.Aida(groups, lr=1e-3)
        for t in range(5):
            for i, (p, g) in enumerate(zip(params, tensors(t), strict=True)):
                if i not in (1, 4):  # frozen, unused
                    p.grad = shard(g, mesh, (Shard(0),)) if sharded else g
            optimizer.step()
        results.append(params)
    assert worst(*results) <= LIMIT


@on_ranks(2)
def plain_pieces_with_reduce_groups():
    """Engines that keep plain pieces say which groups share them; numbers of elements are summed too."""
    for cls, own in [(aida.Aida, {}), (aida.LAdam, {}), (aida.LAida, dict(layerwise="post"))]:
        values = [torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.ones(3)]
        plain = [torch.nn.Parameter(x.clone()) for x in values]
        piece = torch.nn.Parameter(mine(values[0]).clone())
        copied = torch.nn.Parameter(values[1].clone())
        world = [dist.group.WORLD]
        groups = {piece: world}
        ours = cls([piece, copied], lr=1e-3, reduce_groups=lambda p, groups=groups: groups.get(p), **own)
        one = cls(plain, lr=1e-3, **own)
        for t in range(STEPS):
            set_gradients(plain, t)
            piece.grad, copied.grad = mine(plain[0].grad), plain[1].grad
            ours.step()
            one.step()
        assert worst([piece, copied], [mine(plain[0].detach()), plain[1]]) <= LIMIT, cls


@on_ranks(2)
def a_replaced_piece_is_counted_anew():
    plain, piece = torch.nn.Parameter(torch.ones(6, 4)), torch.nn.Parameter(torch.ones(3, 4))
    world = [dist.group.WORLD]
    ours, one = aida.LAdam([piece], reduce_groups=lambda p: world), aida.LAdam([plain])
    for _ in range(2):
        plain = torch.nn.Parameter(torch.ones(6, 4))
        piece = torch.nn.Parameter(torch.ones(3, 4))
        for optimizer, p in ((ours, piece), (one, plain)):
            optimizer.param_groups[0]["params"] = [p]
            p.grad = torch.ones_like(p)
            optimizer.step()
        assert worst([piece], [mine(plain.detach())]) <= LIMIT


@on_ranks(2)
def a_compiled_step_is_that_of_whole_layers():
    mesh = init_device_mesh("cpu", (2,))
    for cls in (aida.Aida, aida.LAdam):
        expected, _ = run(cls)
        params = parameters(mesh, (Shard(0),))
        step = torch.compile(cls(params, lr=1e-3).step, backend="eager")
        for t in range(STEPS):
            for p, g in zip(params, tensors(t), strict=True):
                p.grad = shard(g, mesh, (Shard(0),))
            step()
        assert worst(params, expected) <= LIMIT, cls


@on_ranks(2)
def refusals_say_what_to_do():
    mesh = init_device_mesh("cpu", (2,))
    g = distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)])
    partial = torch.nn.Parameter(DTensor.from_local(torch.ones(4, 2), mesh, [Partial()], run_check=False))
    partial.grad = torch.zeros_like(partial)
    raises(RuntimeError, "redistribute it to Shard or Replicate", aida.Aida([partial]).step)

    p = torch.nn.Parameter(distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)]))
    p.grad = g
    raises(RuntimeError, "leave it False", aida.Aida([p], differentiable=True).step)

    optimizer = aida.Aida([p])
    optimizer.step()
    optimizer.state[p]["exp_avg"] = torch.zeros(4, 2)
    raises(RuntimeError, "set_optimizer_state_dict", optimizer.step)

    raises(ValueError, "set state_dtype='bfloat16'", lambda: aida.Aida([p], state_dtype="int8"))
    optimizer = aida.Aida([p])
    optimizer.param_groups[0]["state_dtype"] = "int8"
    raises(RuntimeError, "a piece of a sharded layer", optimizer.step)

    q = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = aida.Aida([q])
    optimizer.param_groups[0]["params"] = [torch.nn.Parameter(torch.ones(8))]
    raises(RuntimeError, "fully_shard", optimizer.step)
    optimizer.param_groups[0]["params"] = [p]  # a swap to DTensors keeps the layer's shape
    optimizer.step()


def no_groups(p):
    return ()


@on_ranks(2)
def copies_and_pickles_go_on_alike():
    """And keep reduce_groups, without which they would go on with other sums."""
    mesh = init_device_mesh("cpu", (2,))
    _, optimizer = run(aida.Aida, mesh, (Shard(0),), steps=3)
    optimizer.zero_grad()
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        params = twin.param_groups[0]["params"]
        for p, g in zip(params, tensors(3), strict=True):
            p.grad = shard(g, mesh, (Shard(0),)) if isinstance(p, DTensor) else g
        twin.step()
        expected, _ = run(aida.Aida, steps=4)
        assert worst(params, expected) <= LIMIT
    p = torch.nn.Parameter(torch.ones(2))
    whole = aida.Aida([p], reduce_groups=no_groups)
    assert pickle.loads(pickle.dumps(whole)).reduce_groups is no_groups
    assert copy.deepcopy(whole).reduce_groups is no_groups
