"""Names are the user's own, whatever wraps the model or the optimizer, and no two layers share one."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import aida
from aida.monitor import StepsizeMonitor, layer_stepsizes, watchable
from helpers.members import train


class Net(nn.Module):
    """With parts that are called as wrappers call what they wrap."""

    def __init__(self):
        super().__init__()
        self.module = nn.Linear(2, 2)
        self.weight = nn.Parameter(torch.ones(2))
        self._orig_mod = nn.Sequential(nn.Linear(2, 2))


NAMES = ["weight", "module.weight", "module.bias", "_orig_mod.0.weight", "_orig_mod.0.bias"]


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def in_a_part(model):
    model.module = torch.compile(checkpoint_wrapper(model.module), backend="eager")
    return model


WRAPPERS = {
    "none": lambda model: model,
    "compile": lambda model: torch.compile(model, backend="eager"),
    "data parallel": nn.DataParallel,
    "average": lambda model: AveragedModel(model, use_buffers=False),
    "compiled within data parallel": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
    "checkpointed and compiled in a part": in_a_part,
}


def names(model, optimizer):
    train(optimizer, [0])
    return [row["parameter"] for row in layer_stepsizes(optimizer, model)]


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrappers_part_of_a_name_is_left_out_and_the_users_own_is_not(wrap):
    model = wrap(Net())
    assert names(model, aida.Aida(model.parameters())) == NAMES


def test_distributed_data_parallel(group):
    model = DistributedDataParallel(Net())
    assert names(model, aida.Aida(model.parameters())) == NAMES


def test_a_wrapper_with_a_layer_of_its_own_keeps_names_apart():
    class DataParallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.weight = nn.Linear(2, 2), nn.Parameter(torch.ones(2))

    model = DataParallel()
    assert names(model, aida.Aida(model.parameters())) == ["weight", "module.weight", "bias"]


def test_two_models_in_one_optimizer():
    a, b = nn.Linear(2, 2), nn.ParameterList([torch.ones(2) for _ in range(4)])
    optimizer = aida.Aida([*a.parameters(), *b.parameters()])
    assert names(b, optimizer) == ["0", "1", "0 (2)", "1 (3)", "2", "3"]


def watched(optimizer, model):
    with StepsizeMonitor(optimizer, model, every=1) as monitor:
        assert watchable(optimizer)
        found = names(model, optimizer)
    assert sorted(found) == sorted(NAMES)  # ZeRO has an order of its own
    assert [row["parameter"] for row in monitor.rows if row["kind"] == "stepsize"] == found


def test_accelerates_optimizer_is_looked_into():
    from accelerate import Accelerator

    accelerator, model = Accelerator(cpu=True), Net()
    for cls in (aida.Aida, torch.optim.AdamW):
        watched(accelerator.prepare(cls(model.parameters())), model)
    assert not watchable(accelerator.prepare(torch.optim.SGD(model.parameters())))


def test_zeros_optimizer_is_looked_into(group):
    model = Net()
    watched(ZeroRedundancyOptimizer(model.parameters(), aida.Aida), model)
