"""The end of a monitor: what it says of a training that it saw no step of, and when that is no news."""

import copy
import warnings
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import aida
from aida.integrations.watching import Watching
from aida.monitor import StepsizeMonitor
from helpers.members import train

SAID = "has seen no step"


def optimizer_of(model=None):
    return aida.Aida((model or nn.Linear(3, 2)).parameters())


def loaded(optimizer):
    """The best state of a training is loaded at its end."""
    monitor = StepsizeMonitor(optimizer)
    best = copy.deepcopy(optimizer.state_dict())
    train(optimizer, range(3))
    optimizer.load_state_dict(best)
    monitor.close()


def failed(optimizer):
    with suppress(KeyError), StepsizeMonitor(optimizer):
        raise KeyError("data")


def without_gradients(optimizer):
    with StepsizeMonitor(optimizer):
        optimizer.step()


def begun_again(optimizer):
    """A trainer that tells no callback of an error, and tries once more."""
    callback = Watching(1, "memory", None, False, None)
    for _ in range(2):
        callback.begin([optimizer], None, has_logger=False)
    train(optimizer, [0])
    callback.close()


def failed_in_lightning(optimizer):
    pytest.importorskip("pytorch_lightning")
    from aida.integrations.lightning import StepsizeCallback

    callback = StepsizeCallback()
    trainer = SimpleNamespace(optimizers=[optimizer], loggers=[])
    callback.on_train_start(trainer, None)
    callback.on_exception(trainer, None, KeyError("data"))
    callback.teardown(trainer, None, "fit")


@pytest.mark.parametrize("end", [loaded, failed, without_gradients, begun_again, failed_in_lightning])
def test_no_false_warning(end):
    with warnings.catch_warnings(action="error"):
        end(optimizer_of())


def never_stepped(optimizer):
    StepsizeMonitor(optimizer).close()


def of_another_optimizer(optimizer):
    with StepsizeMonitor(optimizer):
        train(optimizer_of(), range(2))


def loaded_and_never_stepped(optimizer):
    with StepsizeMonitor(optimizer):
        optimizer.load_state_dict(optimizer.state_dict())


def ended_in_a_trainer(optimizer):
    callback = Watching(1, "memory", None, False, None)
    callback.begin([optimizer], None, has_logger=False)
    callback.close()


@pytest.mark.parametrize(
    "end", [never_stepped, of_another_optimizer, loaded_and_never_stepped, ended_in_a_trainer]
)
def test_a_monitor_that_saw_no_step_says_so_once(end):
    with pytest.warns(UserWarning, match=SAID) as caught:
        end(optimizer_of())
    assert len(caught) == 1


def test_closing_twice_does_nothing_more():
    monitor = StepsizeMonitor(torch.optim.Adam(nn.Linear(3, 2).parameters()))
    with pytest.warns(UserWarning, match=SAID):
        monitor.close()
    with warnings.catch_warnings(action="error"):
        monitor.close()
