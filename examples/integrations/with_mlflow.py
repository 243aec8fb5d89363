"""A sink of two lines for MLflow: `python examples/integrations/with_mlflow.py`."""

import mlflow
import torch
from digits import accuracy, batches, network

import aida
from aida.monitor import StepsizeMonitor, scalars


class MLflow:
    def write(self, rows):
        mlflow.log_metrics(scalars(rows), step=rows[0]["step"])


torch.manual_seed(0)
mlflow.set_tracking_uri("sqlite:///mlflow.db")
model = network()
optimizer = aida.Aida(model.parameters(), lr=3e-3)
with mlflow.start_run(), StepsizeMonitor(optimizer, model, every=20, sinks=MLflow()):
    for _ in range(6):
        for images, labels in batches():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    mlflow.log_metric("accuracy", accuracy(model))
print(f"accuracy {accuracy(model):.3f}")
