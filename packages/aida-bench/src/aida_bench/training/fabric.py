"""One run on one device or on several processes, through Lightning Fabric.

Every process draws the whole batch and keeps its share, so that the data of a run do not depend on how many
there are; a share's loss counts by its examples. What normalises over a batch (batch norm, a mean over
tokens) does so over a share.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map

from aida_bench.tasks.base import Batch
from aida_bench.training.random_state import random_states, set_random_states

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed"]] = {"32": "32-true", "bf16": "bf16-mixed"}
STRATEGIES = ("ddp", "fsdp")


def make_fabric(device: str, precision: str, devices: int = 1, strategy: str | None = None) -> Fabric:
    """Fabric on one device, or on `devices` of each machine, whose processes run already.

    Raises ValueError or RuntimeError if there is no such device.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    accelerator, _, index = device.partition(":")
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    several: dict[str, Any] = {}
    if strategy is not None:
        machines = int(os.environ.get("WORLD_SIZE", devices)) // devices
        fully = ModelParallelStrategy(_shard, data_parallel_size=machines * devices, tensor_parallel_size=1)
        several = dict(strategy=fully if strategy == "fsdp" else strategy, num_nodes=machines)
    fabric = Fabric(
        accelerator=accelerator, devices=[int(index)] if index else devices, precision=PRECISIONS[precision],
        **several,
    )  # fmt: skip
    fabric.launch()
    return fabric


def _shard(module: nn.Module, mesh: Any) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    # FSDP2 refuses parameters in another layout, such as channels last.
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()
    fully_shard(module, mesh=mesh["data_parallel"])
    return module


def is_sharded(fabric: Fabric) -> bool:
    return isinstance(fabric.strategy, ModelParallelStrategy)


def share(batch: Batch, rank: int, world: int) -> tuple[Batch, float]:
    """This process's examples of a batch, and the factor on their mean loss that makes the mean over all
    processes the mean over the batch. With fewer examples than processes, some see one that counts nothing.
    """
    if world == 1:
        return batch, 1.0
    sizes = {leaf.shape[0] for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim}
    if len(sizes) != 1:
        raise ValueError(f"a batch must have one number of examples to be shared, not {sorted(sizes)}")
    total = sizes.pop()
    mine = slice(rank, None, world) if rank < total else slice(0, 1)

    def cut(leaf: Any) -> Any:
        return leaf[mine] if isinstance(leaf, Tensor) and leaf.ndim else leaf

    return tree_map(cut, batch), len(range(rank, total, world)) * world / total


def separate_draws(fabric: Fabric, seed: int) -> None:
    """From here on every process draws its own dropout; the first draws what a single one would."""
    if fabric.global_rank:
        torch.manual_seed(seed + 1_000_003 * fabric.global_rank)


def all_random_states(fabric: Fabric) -> list[dict[str, Any]]:
    """The generators of every process, in the order of their ranks."""
    states: list[Any] = [random_states(fabric.device)]
    if fabric.world_size > 1:
        states *= fabric.world_size
        torch.distributed.all_gather_object(states, random_states(fabric.device))
    return states


def set_own_random_states(fabric: Fabric, states: list[dict[str, Any]]) -> None:
    set_random_states(states[fabric.global_rank], fabric.device)


def get_states(fabric: Fabric, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Whole tensors, whatever the sharding."""
    if not is_sharded(fabric):
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    from torch.distributed.checkpoint import state_dict as dcp

    whole = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
    states = dcp.get_state_dict(model, optimizer, options=whole)
    return dict(zip(("model", "optimizer"), states, strict=True))


def set_states(fabric: Fabric, model: nn.Module, optimizer: Optimizer, states: dict[str, Any]) -> None:
    if not is_sharded(fabric):
        model.load_state_dict(states["model"])
        optimizer.load_state_dict(states["optimizer"])
        return
    from torch.distributed.checkpoint import state_dict as dcp

    dcp.set_state_dict(
        model, optimizer, model_state_dict=states["model"], optim_state_dict=states["optimizer"],
        options=dcp.StateDictOptions(full_state_dict=True),
    )  # fmt: skip
