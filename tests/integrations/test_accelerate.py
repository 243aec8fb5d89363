"""In accelerate: the optimizer that prepare() gives is looked into, and its trackers get the numbers."""

import pytest
import torch

import aida
from aida.monitor import StepsizeMonitor
from helpers.peers import needed
from helpers.small_net import EXAMPLES, NAMES, Net, recorded

accelerate = needed("accelerate")
from accelerate.tracking import GeneralTracker  # noqa: E402

from aida.integrations.accelerate import Trackers  # noqa: E402


class Kept(GeneralTracker):
    name, requires_logging_directory, tracker = "kept", False, None

    def __init__(self):
        super().__init__()
        self.given = []

    def store_init_configuration(self, values):
        pass

    def log(self, values, step=None, **kwargs):
        self.given.append((step, values))


def test_trackers_get_the_numbers_at_the_optimizers_steps():
    tracker = Kept()
    accelerator = accelerate.Accelerator(cpu=True, log_with=tracker, gradient_accumulation_steps=2)
    accelerator.init_trackers("project")
    model = Net()
    data = torch.utils.data.DataLoader(EXAMPLES, batch_size=1)
    model, optimizer, data = accelerator.prepare(model, aida.Aida(model.parameters()), data)
    with StepsizeMonitor(optimizer, model, every=2, sinks=[Trackers(accelerator), "memory"]) as monitor:
        for _ in range(2):
            for batch in data:
                with accelerator.accumulate(model):
                    optimizer.zero_grad()
                    accelerator.backward(model(**batch)["loss"])
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
    assert recorded(monitor) == [1, 2, 4, 6]
    assert [step for step, _ in tracker.given] == [1, 2, 4, 6]
    for _, values in tracker.given:
        assert {f"stepsize_mean/{name}" for name in NAMES} <= values.keys()
        assert all(type(x) in (int, float) for x in values.values())
    with pytest.raises(TypeError, match="Trackers takes the Accelerator, not Net"):
        Trackers(Net())
