"""A task of your own, with the protocol of aida_bench.tasks.base.Task: aida study run own_study.toml"""

import torch
from torch import nn


class Spirals:
    """Two spirals in the plane, to be told apart."""

    name, parts, splits, clip_norm = "spirals", ("",), ("validation", "test"), None

    def __init__(self, *, model="default", batch_size=64, limit_batches=None):
        t, self.batch_size = torch.linspace(1.5, 9, 900), batch_size
        turn, split = torch.stack([t * t.cos(), t * t.sin()], 1) / 9, torch.arange(1800) % 3
        x, y = torch.cat([turn, -turn]), torch.arange(2).repeat_interleave(900)
        self.data = {s: (x[split == i], y[split == i]) for i, s in enumerate(("train", *self.splits))}

    def build_model(self):
        return nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))

    def batches_per_epoch(self):
        return -(-600 // self.batch_size)

    def train_batches(self, generator, device):
        for index in torch.randperm(600, generator=generator).split(self.batch_size):
            yield tuple(each[index].to(device) for each in self.data["train"])

    def losses(self, model, batches):
        yield from (("", nn.functional.cross_entropy(model(x), y)) for x, y in batches)

    def evaluate(self, model, split, device):
        x, y = (each.to(device) for each in self.data[split])
        return {"loss": nn.functional.cross_entropy(model(x), y).item()}

    def end_epoch(self, model, epoch, epochs, folder, device):
        return {}

    def lr_factor(self, step, steps_per_epoch, epochs):
        return 1 - step / (steps_per_epoch * epochs)
