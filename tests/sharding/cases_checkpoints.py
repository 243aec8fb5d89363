"""Checkpoints across world sizes and meshes; training goes on as if it had not stopped."""

from __future__ import annotations

import itertools

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module

import aida
from helpers.sharding.block import SEQUENCE_PLAN, Block, train_block
from helpers.sharding.checkpoints import load, save
from helpers.sharding.common import LIMIT, batch, mine, net, reference, train, whole, worst
from helpers.sharding.launch import on_ranks

SETTINGS = {
    "aida": (aida.Aida, {}),
    "pre": (aida.LAdam, {}),
    "post": (aida.LAida, dict(layerwise="post", weight_decay=0.01, decoupled_weight_decay=True)),
}
BEFORE, AFTER = range(5), range(5, 12)


def steps_taken(optimizer) -> set[float]:
    return {float(state["step"]) for state in optimizer.state.values()}


@on_ranks(2)
def saved_on_two_ranks():
    """The next case loads what this one saves."""
    for name, (cls, own) in SETTINGS.items():
        model = net()
        fully_shard(model)
        optimizer = cls(model.parameters(), lr=1e-3, **own)
        train(model, optimizer, steps=BEFORE)
        save(model, optimizer, name)


@on_ranks(4)
def loaded_on_four_ranks_on_a_mesh_and_in_one_process():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    for name, (cls, own) in SETTINGS.items():
        expected = reference(
            net(),
            lambda params, cls=cls, own=own: cls(params, lr=1e-3, **own),
            range(BEFORE.start, AFTER.stop),
        )
        for place in ("four", "mesh", "plain"):
            model = net()
            with torch.no_grad():
                for p in model.parameters():
                    p.zero_()
            if place != "plain":
                fully_shard(model, mesh=mesh if place == "mesh" else None)
            optimizer = cls(model.parameters(), lr=1e-3, **own)
            load(model, optimizer, name, no_dist=place == "plain")
            assert steps_taken(optimizer) == {5.0}
            train(model, optimizer, batch if place == "plain" else lambda t: mine(batch(t)), AFTER)
            assert worst(model.parameters(), expected) <= LIMIT, (name, place)


@on_ranks(4)
def from_tensor_parallel_to_hybrid_to_one_process():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))

    def build(place):
        torch.manual_seed(5)
        model = Block()
        if place == "tensor":
            parallelize_module(model, mesh["tensor"], SEQUENCE_PLAN)
        if place != "plain":
            fully_shard(model, mesh=mesh["data"] if place == "tensor" else mesh)
        return model

    data = mesh["data"].get_local_rank()
    part = dict(tensor=lambda x: mine(x, data, 2), hybrid=mine, plain=lambda x: x)
    for cls, own in SETTINGS.values():
        make = lambda params, cls=cls, own=own: cls(params, lr=1e-3, **own)  # noqa: E731
        expected = train_block(build("plain"), make, part["plain"], range(9))
        previous = None
        for i, place in enumerate(("tensor", "hybrid", "plain")):
            model = build(place)
            optimizer = make(model.parameters())
            if previous:
                load(model, optimizer, previous, no_dist=place == "plain")
            train_block(model, lambda _, optimizer=optimizer: optimizer, part[place], range(3 * i, 3 * i + 3))
            if place != "plain":
                previous = f"{cls.__name__}-{place}"
                save(model, optimizer, previous)
        assert worst(model.parameters(), expected) <= LIMIT, cls


@on_ranks(2)
def whole_state_from_the_first_rank():
    for cls, own in SETTINGS.values():
        model = net()
        fully_shard(model)
        optimizer = cls(model.parameters(), lr=1e-3, **own)
        train(model, optimizer, steps=BEFORE)
        optimizer.zero_grad()
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        full = get_optimizer_state_dict(model, optimizer, options=options)
        assert bool(full) == (dist.get_rank() == 0)
        assert not any(isinstance(x, DTensor) for s in full.get("state", {}).values() for x in s.values())
        other = cls(model.parameters(), lr=1e-3, **own)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_optimizer_state_dict(model, other, full, options=options)
        for p in model.parameters():
            for name, x in optimizer.state[p].items():
                assert torch.equal(whole(other.state[p][name]), whole(x)), name
                assert type(other.state[p][name]) is type(x)


@on_ranks(2)
def moments_keep_their_type():
    model = net().to(torch.bfloat16)
    fully_shard(model)
    optimizer = aida.Aida(model.parameters(), lr=1e-3)
    train(model, optimizer, lambda t: mine(batch(t)).bfloat16(), BEFORE)
    optimizer.zero_grad()
    save(model, optimizer, "bfloat16")
    other = aida.Aida(model.parameters(), lr=1e-3)
    load(model, other, "bfloat16")
    for p in model.parameters():
        for name in ("exp_avg", "exp_avg_var"):
            assert other.state[p][name].dtype == torch.float32
            assert torch.equal(whole(other.state[p][name]), whole(optimizer.state[p][name]))


@on_ranks(2)
def the_hidden_first_step_is_inert():
    """Checkpoint tools make a fresh state by a step with zero gradients and lr 0: it must not count."""
    for cls, own in [*SETTINGS.values(), (aida.Aida, dict(weight_decay=0.1)), (aida.AdaBelief, {})]:
        make = lambda params, cls=cls, own=own: cls(params, lr=1e-3, **own)  # noqa: E731
        model = net()
        before = [p.detach().clone() for p in model.parameters()]
        expected = reference(model, make)
        fully_shard(model)
        optimizer = make(model.parameters())
        get_optimizer_state_dict(model, optimizer)
        assert steps_taken(optimizer) == {0.0}
        assert worst(model.parameters(), before) == 0
        train(model, optimizer)
        assert worst(model.parameters(), expected) <= LIMIT


@on_ranks(2)
def a_first_step_with_lr_0_and_gradients_counts():
    """Warm-up starts so; the rank whose shards have no gradient element must not leave the others waiting."""
    model = net()
    fully_shard(model)
    optimizer = aida.Aida(model.parameters(), lr=0.0)
    train(model, optimizer, steps=range(1))
    assert steps_taken(optimizer) == {1.0}
    gains = [p for p in model.parameters() if p.numel() == 1]
    lone = aida.Aida(gains, lr=0.0)
    lone.step()
    assert steps_taken(lone) == {1.0}


VALUES = [
    {"state_dtype": torch.bfloat16, "stochastic_rounding": True, "seed": 7},
    {"state_dtype": "float32", "layerwise": "post"},
    {"lr": torch.tensor(0.01), "betas": [0.5, 0.9], "eps": 1e-6, "weight_decay": 0.1},
    {"foreach": True, "decoupled_weight_decay": True, "rectify": True, "maximize": True},
    {"fused": True, "K": 3, "xi": 1e-6},
    {"foreach": False, "capturable": True},
    {"layer_id": 3, "tag": "head", "is_last_layer": True},
]
WRAPPERS = {
    "DDP": lambda model: torch.nn.parallel.DistributedDataParallel(model),
    "FSDP1": lambda model: FullyShardedDataParallel(
        model, use_orig_params=True, device_id=torch.device("cpu"), auto_wrap_policy=_all_linear
    ),
    "FSDP2": fully_shard,
}


def _all_linear(module, recurse, nonwrapped_numel):
    return recurse or isinstance(module, torch.nn.Linear)


@on_ranks(2)
def every_value_of_a_group_goes_through_every_wrapper_and_option():
    """A group with a torch.dtype in it could not be offloaded or gathered."""
    for (name, wrap), values, offload, full in itertools.product(
        WRAPPERS.items(), VALUES, (False, True), (False, True)
    ):
        own = {k: v for k, v in values.items() if k in ("layer_id", "tag", "is_last_layer")}
        arguments = {k: v for k, v in values.items() if k not in own}

        def build(wrap=wrap, own=own, arguments=arguments, name=name):
            model = wrap(net())
            groups = aida.fsdp_groups(model) if name == "FSDP1" else None
            params = [{"params": model.parameters(), **own}]
            return model, aida.LAida(params, reduce_groups=groups, **arguments)

        options = StateDictOptions(cpu_offload=offload, full_state_dict=full, broadcast_from_rank0=full)
        model, source = build()
        train(model, source, steps=BEFORE)
        state = get_optimizer_state_dict(model, source, options=options)
        if name == "FSDP1" and offload and full:
            continue  # torch mixes up the moments when it loads these, AdamW's too
        other, loaded = build()
        set_optimizer_state_dict(other, loaded, state, options=options)
        kept = [{k: v for k, v in o.param_groups[0].items() if k != "params"} for o in (source, loaded)]
        assert kept[0] == kept[1], (name, values, options)
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert source.state[p].keys() == loaded.state[q].keys(), (name, values, options)
            for key, x in source.state[p].items():
                y = loaded.state[q][key]
                assert torch.equal(whole(x), whole(y)), (name, values, options, key, x, y)
