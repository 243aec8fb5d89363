"""A loop of accelerate's: `accelerate launch examples/integrations/with_accelerate.py`, or python alone."""

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from digits import accuracy, network, train_x, train_y

import aida
from aida.integrations.accelerate import Trackers
from aida.monitor import StepsizeMonitor


class Shown(GeneralTracker):  # or Accelerator(log_with="wandb", "tensorboard", "mlflow", ...)
    name, requires_logging_directory, tracker = "shown", False, None

    def store_init_configuration(self, values):
        print("run", values)

    def log(self, values, step=None, **kwargs):
        print(step, {k: round(x, 3) for k, x in values.items() if k.startswith("stepsize_mean/")})


torch.manual_seed(0)
accelerator = Accelerator(cpu=True, log_with=Shown())
accelerator.init_trackers("digits", config={"lr": 3e-3})
model = network()
optimizer = aida.Aida(model.parameters(), lr=3e-3)
loader = torch.utils.data.DataLoader(list(zip(train_x, train_y, strict=True)), batch_size=64, shuffle=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
with StepsizeMonitor(optimizer, model, every=20, sinks=[Trackers(accelerator), "stepsizes.jsonl"]):
    for _ in range(6):
        for images, labels in loader:
            optimizer.zero_grad()
            accelerator.backward(torch.nn.functional.cross_entropy(model(images), labels))
            optimizer.step()
accelerator.end_training()
print(f"accuracy {accuracy(model):.3f}")
