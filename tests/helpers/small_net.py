"""A network of two layers and its data, for trainers that own the loop."""

import torch
from torch import nn

EXAMPLES = [
    {"x": torch.randn(4, generator=torch.Generator().manual_seed(i)), "labels": torch.ones(1)}
    for i in range(6)
]
NAMES = ["body.weight", "body.bias", "head.weight", "head.bias"]


class Net(nn.Module):
    """Its loss, as the Hugging Face Trainer wants it."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 1)

    def forward(self, x, labels):
        output = self.head(self.body(x).tanh())
        return {"loss": (output - labels).square().mean(), "logits": output}


def recorded(monitor):
    """The steps of a monitor's records, each of which has every layer and sensible numbers."""
    spreads = [row["step"] for row in monitor.rows if row["kind"] == "spread"]
    for step in spreads:
        rows = [row for row in monitor.rows if row["kind"] == "stepsize" and row["step"] == step]
        assert [row["parameter"] for row in rows] == NAMES
        assert all(row["cos"] is not None and 0 < row["mean"] < 317 for row in rows)
    return spreads
