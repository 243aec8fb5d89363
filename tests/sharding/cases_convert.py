"""convert_state on sharded parameters: the state that the whole ones have, refused by all ranks alike."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.optim import AdamW

import aida
from helpers.conversions import build
from helpers.sharding.common import worst
from helpers.sharding.launch import on_ranks
from helpers.sharding.layouts import parameters, shard, tensors

INTO = [(cls, {}) for cls in (aida.Aida, aida.AdaBelief, aida.LAdam, aida.LAdaBelief, aida.LAida)]
INTO += [(aida.LAdam, {"layerwise": "post"})]


def adamw(params):
    return AdamW(params, lr=1e-3)


def timm(params):
    return build("timm.optim.adabelief", "AdaBelief", params, lr=1e-3, eps=1e-6, rectify=False)


def step(optimizer, steps, mesh, placements):
    for t in steps:
        for p, g in zip(optimizer.param_groups[0]["params"], tensors(t), strict=True):
            p.grad = shard(g, mesh, placements) if mesh else g
        optimizer.step()


def goes_on(make, cls, own, mesh=None, placements=()):
    """The parameters after some steps of the source and some of the optimizer that its state is made for."""
    params = parameters(mesh, placements) if mesh else [torch.nn.Parameter(x) for x in tensors()]
    source = make(params)
    step(source, range(4), mesh, placements)
    optimizer = cls(params, **own)
    with warnings.catch_warnings(action="ignore"):  # a warm start
        optimizer.load_state_dict(aida.convert_state(source.state_dict(), optimizer, NAMES[make]))
    step(optimizer, range(4, 8), mesh, placements)
    return params


NAMES = {adamw: "torch.AdamW", timm: "timm.AdaBelief"}


@on_ranks(1, 2)
def states_of_sharded_parameters_go_on_as_those_of_whole_ones():
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for make in NAMES:
        for cls, own in INTO:
            expected = goes_on(make, cls, own)
            for placements in [(Shard(0),), (Replicate(),)]:
                found = goes_on(make, cls, own, mesh, placements)
                assert worst(found, expected) <= 5e-7, (make, cls, own, placements)


@on_ranks(2)
def a_v_that_one_rank_finds_too_small_is_refused_by_both():
    mesh = init_device_mesh("cpu", (2,))
    params = parameters(mesh, (Shard(0),))
    source = timm(params)
    step(source, range(4), mesh, (Shard(0),))
    if dist.get_rank():
        source.state[params[0]]["exp_avg_var"].to_local().zero_()
    with pytest.raises(ValueError, match=r"v of parameter 0 .* is smaller than what eps alone adds up to"):
        aida.convert_state(source.state_dict(), aida.AdaBelief(params))
