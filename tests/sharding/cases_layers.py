"""Layers that are slices, or several tensors, where ranks hold pieces of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import aida
from helpers.members import set_gradients
from helpers.own_members import Mixing
from helpers.sharding.checkpoints import load, save
from helpers.sharding.common import LIMIT, batch, equal_on_ranks, mine, net, raises, train, worst
from helpers.sharding.launch import on_ranks
from helpers.sharding.layouts import columns, rows, run, together

MEMBERS = [(aida.Aida, {}), (aida.LAida, {}), (aida.LAida, dict(layerwise="post")), (Mixing, {})]


@on_ranks(2, 4)
def slices_and_shared_layers_are_those_of_one_process():
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for cls, own in MEMBERS:
        as_tensors, _ = run(cls, foreach=False, **own)
        for layers in (rows, columns, together):
            kwargs = dict(own, layers=layers, weight_decay=0.05)
            expected, one = run(cls, foreach=False, **kwargs)
            assert cls is Mixing or worst(expected, as_tensors) > 100 * LIMIT, "layers make no difference"
            for placement in (Shard(0), Shard(1)):
                for foreach in (False, True):
                    found, optimizer = run(cls, mesh, (placement,), foreach=foreach, **kwargs)
                    distance = worst(found, expected)
                    assert distance <= LIMIT, (cls, own, layers.__name__, placement, distance)
                pooled = [s["exp_avg_var"] for s in optimizer.state.values()]
                if optimizer.param_groups[0].get("layerwise") == "pre":
                    assert [v.shape for v in pooled] == [s["exp_avg_var"].shape for s in one.state.values()]
                    assert equal_on_ranks(pooled)


@on_ranks(2)
def the_kernel_steps_slices_of_shards():
    mesh = init_device_mesh("cpu", (2,))
    for layers in (rows, columns, together):
        expected, _ = run(aida.LAida, foreach=False, layers=layers)
        try:
            found, _ = run(aida.LAida, mesh, (Shard(0),), fused=True, layers=layers)
        except RuntimeError:
            return
        assert worst(found, expected) <= LIMIT, layers.__name__


@on_ranks(4)
def slices_on_a_mesh_of_two_by_two():
    mesh = init_device_mesh("cpu", (2, 2))
    for cls, own in MEMBERS[:3]:
        for layers in (rows, columns, together):
            expected, _ = run(cls, layers=layers, **own)
            for placements in [(Shard(0), Shard(0)), (Shard(0), Shard(1)), (Shard(1), Replicate())]:
                found, _ = run(cls, mesh, placements, layers=layers, **own)
                distance = worst(found, expected)
                assert distance <= LIMIT, (cls, own, layers.__name__, placements, distance)


@on_ranks(2)
def a_tensor_with_a_gradient_on_one_rank_alone_is_in_the_sums_of_all():
    """As one process has it whose tensor has the other rank's elements not at all."""
    mesh = init_device_mesh("cpu", (2,))
    for cls, own in MEMBERS[:3]:
        w, b = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.arange(4.0)
        plain = [torch.nn.Parameter(w.clone()), torch.nn.Parameter(b[:2].clone())]
        pieces = [torch.nn.Parameter(distribute_tensor(x, mesh, (Shard(0),))) for x in (w, b)]
        make = lambda params, cls=cls, own=own: cls(params, lr=1e-3, layers=lambda n, p: "all", **own)  # noqa: E731
        one, ours = make(plain), make(pieces)
        for t in range(5):
            set_gradients(plain, t)
            pieces[0].grad = distribute_tensor(plain[0].grad, mesh, (Shard(0),))
            pieces[1].grad = None
            if dist.get_rank() == 0:
                pieces[1].grad = DTensor.from_local(
                    plain[1].grad, mesh, (Shard(0),), run_check=False, shape=(4,), stride=(1,)
                )
            ours.step()
            one.step()
        assert worst(pieces[:1], plain[:1]) <= LIMIT, cls
        if cls is aida.LAida and not own:
            assert equal_on_ranks([ours.state[pieces[0]]["exp_avg_var"]])


@on_ranks(2)
def messages_are_as_many_as_for_tensors():
    mesh = init_device_mesh("cpu", (2,))
    for (cls, own), expected in zip(MEMBERS[:3], (1, 1, 2), strict=True):
        for layers in ("tensor", rows, together):
            _, optimizer = run(cls, mesh, (Shard(0),), steps=1, layers=layers, **own)
            with CommDebugMode() as counter:
                optimizer.step()
            assert counter.get_total_counts() == expected, (cls, own, layers)


def sliced(name, p):
    return [slice(0, 3), slice(3, None)] if name == "up.weight" else name.rpartition(".")[0]


@on_ranks(2)
def a_sharded_model_saves_loads_and_trains_on():
    for cls, own in MEMBERS[:3]:
        for layers in ("module", sliced):
            make = lambda model, layers=layers, cls=cls, own=own: cls(  # noqa: E731
                model.named_parameters(), lr=1e-3, layers=layers, **own
            )
            single = net()
            train(single, make(single), batch, range(9))
            name = f"layers-{cls.__name__}-{len(own)}-{layers == 'module'}"
            for part in (range(5), range(5, 9)):
                model = net()
                fully_shard(model)
                optimizer = make(model)
                if part.start:
                    load(model, optimizer, name)
                train(model, optimizer, lambda t: mine(batch(t)), part)
                if not part.start:
                    save(model, optimizer, name)
            assert worst(model.parameters(), single.parameters()) <= LIMIT, (cls, own, layers)


@on_ranks(2)
def a_piece_whose_place_is_unknown_is_not_cut():
    piece = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = aida.Aida([piece], reduce_groups=lambda p: [dist.group.WORLD], layers=rows)
    piece.grad = torch.ones(4, 2)
    raises(
        RuntimeError,
        "parameter 0 of its group is a piece of a layer of which only reduce_groups knows",
        optimizer.step,
    )
    assert not optimizer.state


@on_ranks(2)
def plain_pieces_share_a_layer_with_whole_tensors():
    """Numbers of elements are summed too, of pieces of which only reduce_groups knows."""
    for cls, own in MEMBERS[:3]:
        values = [torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.ones(3)]
        plain = [torch.nn.Parameter(x.clone()) for x in values]
        pieces = [torch.nn.Parameter(mine(values[0]).clone()), torch.nn.Parameter(values[1].clone())]
        shared = {pieces[0]: [dist.group.WORLD]}
        arguments = dict(own, lr=1e-3, layers=lambda name, p: "all")
        ours = cls(pieces, reduce_groups=lambda p, shared=shared: shared.get(p), **arguments)
        one = cls(plain, **arguments)
        for t in range(5):
            set_gradients(plain, t)
            pieces[0].grad, pieces[1].grad = mine(plain[0].grad), plain[1].grad
            ours.step()
            one.step()
        assert worst(pieces, [mine(plain[0].detach()), plain[1]]) <= LIMIT, (cls, own)
