"""A monitor's rows of sharded layers are those of whole layers on one process."""

from __future__ import annotations

import math
import warnings
from unittest import mock

import torch
import torch.distributed as dist
from torch import optim
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode

import aida
from aida.monitor import StepsizeMonitor, layer_stepsizes
from aida.sharding import LayerReduction
from helpers.members import OWN
from helpers.own_members import Damped, Mixing
from helpers.sharding.common import batch, loss, mine, net, train
from helpers.sharding.launch import on_ranks
from helpers.sharding.layouts import columns, rows, run, together

MEMBERS = [(cls, dict(own)) for cls, settings in OWN.items() for own in settings]
MEMBERS += [(Damped, {"power": 0.5}), (Mixing, {})]
EXACT = {"kind", "step", "layer", "parameter", "numel", "cap"}


def different(found: list[dict], expected: list[dict], limit: float = 2e-5) -> list[str]:
    """Measures that are further apart than parameters stepped in float32 may bring them."""
    assert [row["parameter"] for row in found] == [row["parameter"] for row in expected]
    wrong = []
    for a, b in zip(found, expected, strict=True):
        for key in a.keys() - {"histogram", "run"}:
            # A percentile may jump to the next element of a small layer: a bin is 1.1 %.
            near = 0.012 if key.startswith("p") and key[1:].isdigit() else limit
            scale = a["mean"] if key == "std" else None
            if a[key] != b[key] and (key in EXACT or not close(a[key], b[key], near, scale)):
                wrong.append(f"{a['parameter']} {key}: {a[key]}, not {b[key]}")
        if sum(a["histogram"]["counts"]) != sum(b["histogram"]["counts"]):
            wrong.append(f"{a['parameter']} counts")
    return wrong


def close(a: float, b: float, limit: float, scale: float | None) -> bool:
    return abs(a - b) <= limit * (scale or max(abs(a), abs(b))) or (math.isnan(a) and math.isnan(b))


@on_ranks(2, 4)
def rows_of_every_member_and_of_adam_are_of_whole_layers():
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    others = [(optim.Adam, {}), (optim.RMSprop, dict(momentum=0.9)), (optim.Adagrad, {})]
    for cls, own in [*MEMBERS, *others]:
        _, plain = run(cls, steps=4, weight_decay=0.05, **own)
        _, sharded = run(cls, mesh, (Shard(0),), steps=4, weight_decay=0.05, **own)
        wrong = different(layer_stepsizes(sharded), layer_stepsizes(plain))
        assert not wrong, (cls, own, wrong)


@on_ranks(4)
def rows_on_a_mesh_of_two_by_two():
    mesh = init_device_mesh("cpu", (2, 2))
    _, plain = run(aida.Aida, steps=3)
    for placements in [(Shard(0), Shard(1)), (Shard(1), Replicate()), (Replicate(), Replicate())]:
        _, sharded = run(aida.Aida, mesh, placements, steps=3)
        wrong = different(layer_stepsizes(sharded), layer_stepsizes(plain))
        assert not wrong, (placements, wrong)


@on_ranks(2)
def rows_of_slices_and_of_several_tensors_are_of_whole_layers():
    mesh = init_device_mesh("cpu", (2,))
    for cls, own in [(aida.Aida, {}), (aida.LAida, {}), (aida.LAida, dict(layerwise="post"))]:
        for layers in (rows, columns, together):
            _, plain = run(cls, steps=3, layers=layers, **own)
            _, sharded = run(cls, mesh, (Shard(0),), steps=3, layers=layers, **own)
            wrong = different(layer_stepsizes(sharded), layer_stepsizes(plain))
            assert not wrong, (cls, own, layers.__name__, wrong)


@on_ranks(2)
def pieces_alone_are_seen():
    """Negative control: without the reduction the rows are of this rank's shards."""
    mesh = init_device_mesh("cpu", (2,))
    _, plain = run(aida.Aida, steps=3)
    _, sharded = run(aida.Aida, mesh, (Shard(0),), steps=3)
    measured = ("0", "1", "4", "5")  # of which each rank has a piece
    with mock.patch.object(LayerReduction, "__call__", return_value=None):
        found, expected = (
            layer_stepsizes(o, select=lambda name, p: name in measured) for o in (sharded, plain)
        )
        wrong = different(found, expected)
    assert len(wrong) > 20, wrong


@on_ranks(2)
def a_record_is_two_messages_and_a_step_between_records_no_more_than_its_own():
    mesh = init_device_mesh("cpu", (2,))
    _, optimizer = run(aida.Aida, mesh, (Shard(0),), steps=2)
    with StepsizeMonitor(optimizer, every=2), CommDebugMode() as counter:
        optimizer.step()
        assert counter.get_total_counts() == 1
        optimizer.step()
        assert counter.get_total_counts() == 1 + 1 + 2


@on_ranks(2)
def a_monitor_of_an_fsdp2_model_writes_on_rank_0_alone():
    model = net()
    whole = net()
    fully_shard(model)
    optimizers = [aida.Aida(m.parameters(), lr=1e-3) for m in (model, whole)]
    with warnings.catch_warnings(action="error", category=UserWarning):
        monitors = [StepsizeMonitor(o, m, every=2) for o, m in zip(optimizers, (model, whole), strict=True)]
        train(model, optimizers[0], lambda t: mine(batch(t)), range(4))
        train(whole, optimizers[1], batch, range(4))
        for monitor in monitors:
            monitor.close()
    sharded, plain = (monitor.rows for monitor in monitors)
    if dist.get_rank():
        assert sharded == plain == []
        return
    assert [row["step"] for row in sharded if row["kind"] == "spread"] == [1, 2, 4]
    layers = [
        [row for row in rows if row["kind"] == "stepsize" and row["step"] > 1] for rows in (sharded, plain)
    ]
    # Gradients of two halves differ from the whole batch's in their last places, which stepsizes magnify.
    assert not different(*layers, limit=2e-3), different(*layers, limit=2e-3)
    assert torch.isfinite(loss(whole, batch(0)))


@on_ranks(2)
def rows_of_all_ranks_have_one_name_of_a_run():
    _, optimizer = run(aida.Aida, steps=2)
    with StepsizeMonitor(optimizer, every=1, all_ranks=True) as monitor:
        optimizer.step()
    names = [{row["run"] for row in monitor.rows}] * dist.get_world_size()
    dist.all_gather_object(names, names[0])
    assert names[0] == names[1]
    assert len(names[0]) == 1


@on_ranks(2)
def a_layer_that_fails_on_one_rank_is_dropped_on_all_and_no_rank_waits_for_ever():
    _, optimizer = run(aida.Aida, init_device_mesh("cpu", (2,)), (Shard(0),), steps=2)
    rank = dist.get_rank()
    select = lambda name, p: 1 / 0 if rank and name == "0" else True  # noqa: E731
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with StepsizeMonitor(optimizer, every=1, select=select) as monitor:
            optimizer.step()
    said = "ZeroDivisionError" if rank else "another rank could not measure its piece"
    assert [said in str(w.message) for w in caught] == [True], [str(w.message) for w in caught]
    if not rank:
        assert "0" not in {row.get("parameter") for row in monitor.rows}
        assert "1" in {row.get("parameter") for row in monitor.rows}
