"""A sink of two lines for trackio: `python examples/integrations/with_trackio.py`, then `trackio show`."""

import torch
import trackio
from digits import accuracy, batches, network

import aida
from aida.monitor import StepsizeMonitor, scalars


class Trackio:
    def write(self, rows):
        trackio.log(scalars(rows), step=rows[0]["step"])


torch.manual_seed(0)
trackio.init(project="digits", name="aida")
model = network()
optimizer = aida.Aida(model.parameters(), lr=3e-3)
with StepsizeMonitor(optimizer, model, every=20, sinks=Trackio()):
    for _ in range(6):
        for images, labels in batches():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
trackio.finish()
print(f"accuracy {accuracy(model):.3f}")
