"""What PyTorch shards and replicates with, trained as one process trains."""

from __future__ import annotations

import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, ShardingStrategy, fully_shard
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import aida
from helpers.sharding.block import PLAN, SEQUENCE_PLAN, block, train_block
from helpers.sharding.common import (
    LIMIT,
    STEPS,
    batch,
    equal_on_ranks,
    loss,
    mine,
    net,
    raises,
    reference,
    train,
    worst,
)
from helpers.sharding.launch import on_ranks

SETTINGS = [
    (aida.Aida, {}),
    (aida.LAdam, {}),
    (aida.LAida, dict(layerwise="post", weight_decay=0.01)),
    (aida.AdaBelief, {}),
]


def makers():
    for cls, own in SETTINGS:
        yield lambda params, cls=cls, own=own: cls(params, lr=1e-3, **own)


@on_ranks(2, 4)
def fsdp2():
    for make in makers():
        model = net()
        expected = reference(model, make)
        fully_shard(model.up)
        fully_shard(model)
        train(model, make(model.parameters()))
        assert worst(model.parameters(), expected) <= LIMIT


@on_ranks(2)
def fsdp2_with_offloaded_shards():
    model = net()
    expected = reference(model, aida.Aida)
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)), offload_policy=CPUOffloadPolicy(pin_memory=False))
    train(model, aida.Aida(model.parameters()))
    assert worst(model.parameters(), expected) <= LIMIT


@on_ranks(4)
def hsdp_and_its_replicas():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    for make in makers():
        model = net()
        expected = reference(model, make)
        fully_shard(model, mesh=mesh)
        optimizer = make(model.parameters())
        train(model, optimizer)
        assert worst(model.parameters(), expected) <= LIMIT
        moments = [optimizer.state[p]["exp_avg"].to_local() for p in model.parameters()]
        shards = [p.to_local() for p in model.parameters()]
        assert equal_on_ranks([*shards, *moments], mesh.get_group("replicate"))


@on_ranks(2, 4)
def ddp_and_its_replicas():
    for make in makers():
        model = net()
        expected = reference(model, make)
        replica = DistributedDataParallel(model)
        optimizer = make(model.parameters())
        train(replica, optimizer)
        assert worst(model.parameters(), expected) <= LIMIT
        assert equal_on_ranks(model.parameters())
        with CommDebugMode() as counter:
            optimizer.step()
        assert counter.get_total_counts() == 0


@on_ranks(2, 4)
def gradients_released_in_backward():
    for make in makers():
        model = net()
        expected = reference(model, make)
        optimizer = make(model.parameters())
        with aida.release_gradients(optimizer, model, process_group=dist.group.WORLD):
            for t in range(STEPS):
                optimizer.zero_grad()
                loss(model, mine(batch(t))).backward()
        assert worst(model.parameters(), expected) <= LIMIT
        assert equal_on_ranks(model.parameters())
    replica = DistributedDataParallel(net())
    optimizer = aida.Aida(replica.parameters())
    raises(ValueError, "process_group=", lambda: aida.release_gradients(optimizer, replica))
    model = net()
    fully_shard(model)
    optimizer = aida.Aida(model.parameters())
    raises(ValueError, "the model is sharded", lambda: aida.release_gradients(optimizer, model))


@on_ranks(2, 4)
def tensor_parallel():
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for make in makers():
        expected = train_block(block(), make)
        for plan in (PLAN, SEQUENCE_PLAN):
            model = parallelize_module(block(), mesh, plan)
            found = train_block(model, make)
            assert worst(found, expected) <= LIMIT, (plan, worst(found, expected))


@on_ranks(4)
def tensor_parallel_with_fsdp2():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    data = mesh["data"]
    for make in makers():
        expected = train_block(block(), make)
        model = parallelize_module(block(), mesh["tensor"], SEQUENCE_PLAN)
        fully_shard(model, mesh=data)
        found = train_block(model, make, lambda x: mine(x, data.get_local_rank(), 2))
        assert worst(found, expected) <= LIMIT
    optimizer = aida.Aida(model.parameters())
    with CommDebugMode() as counter:
        optimizer.step()
    assert counter.get_total_counts() == 2


@on_ranks(4)
def pipeline_stages_on_disjoint_meshes():
    """Each stage's optimizer speaks to its own ranks alone, at its own pace."""
    stage = dist.get_rank() // 2
    meshes = init_device_mesh("cpu", (2, 2), mesh_dim_names=("stage", "data"))
    model = net()
    expected = reference(model, aida.Aida, range(STEPS + stage))
    fully_shard(model, mesh=meshes["data"])
    train(
        model,
        aida.Aida(model.parameters()),
        lambda t: mine(batch(t), dist.get_rank() % 2, 2),
        range(STEPS + stage),
    )
    assert worst(model.parameters(), expected) <= LIMIT


@on_ranks(4)
def zero_redundancy_with_fewer_parameters_than_ranks():
    for cls, own in SETTINGS:
        model = nn.Sequential(nn.Linear(6, 2))
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.linspace(-1, 1, p.numel()).view_as(p))
        expected = reference(model, lambda params, cls=cls, own=own: cls(params, lr=1e-3, **own))
        replica = DistributedDataParallel(model)
        train(replica, ZeroRedundancyOptimizer(model.parameters(), cls, lr=1e-3, **own))
        assert worst(model.parameters(), expected) <= LIMIT
        assert equal_on_ranks(model.parameters())


@on_ranks(2, 4)
def fsdp1_with_original_parameters():
    strategies = [ShardingStrategy.FULL_SHARD, ShardingStrategy.SHARD_GRAD_OP, ShardingStrategy.NO_SHARD]
    for strategy in strategies:
        for cls, own in SETTINGS:
            model = net()
            expected = reference(model, lambda params, cls=cls, own=own: cls(params, lr=1e-3, **own))
            wrapped = FSDP(
                model, use_orig_params=True, sharding_strategy=strategy, device_id=torch.device("cpu")
            )
            train(wrapped, cls(wrapped.parameters(), lr=1e-3, reduce_groups=aida.fsdp_groups(wrapped), **own))
            with FSDP.summon_full_params(wrapped):
                assert worst(wrapped.parameters(), expected) <= LIMIT, (strategy, cls)


@on_ranks(2)
def fsdp1_is_refused_where_layers_are_lost():
    def step(cls, use_orig_params, before=False):
        model = net()
        optimizer = cls(model.parameters()) if before else None
        wrapped = FSDP(model, use_orig_params=use_orig_params, device_id=torch.device("cpu"))
        optimizer = optimizer or cls(wrapped.parameters())
        train(wrapped, optimizer, steps=range(1))

    raises(RuntimeError, "use_orig_params=True", lambda: step(aida.Aida, False))
    raises(RuntimeError, "aida.fsdp_groups(model)", lambda: step(aida.LAdam, True))
    raises(RuntimeError, "build the optimizer afterwards", lambda: step(aida.Aida, True, before=True))
    step(aida.AdaBelief, False)  # elementwise: pieces are as good as layers


@on_ranks(2)
def optimizer_built_before_sharding_warns():
    model = net()
    optimizer = aida.Aida(model.parameters())
    fully_shard(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, optimizer, steps=range(1))
    assert any("build it afterwards" in str(w.message) for w in caught), [str(w.message) for w in caught]
