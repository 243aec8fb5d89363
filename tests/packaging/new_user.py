"""A new user's path, run by the Python of an environment with the wheel, torch and adabelief-pytorch.

A training script that was there before; one line swapped; stepsizes watched; old checkpoints converted.
"""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import torch

import aida
from aida.monitor import JSONL, StepsizeMonitor

SCRIPT = """
import sys
import torch
from torch.optim import AdamW as Optimizer

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
optimizer = Optimizer(model.parameters(), lr=1e-2, weight_decay=0.01)
x = torch.randn(256, 8)
y = x[:, :1] * x[:, 1:2]
for step in range(200):
    optimizer.zero_grad()
    loss = (model(x) - y).square().mean()
    loss.backward()
    optimizer.step()
    if step == 0:
        print(loss.item())
print(loss.item())
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, sys.argv[1])
"""


def ran(script, checkpoint):
    """(first, last) loss that the script prints."""
    Path("train.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "train.py", checkpoint], capture_output=True, text=True, check=True
    )
    return [float(line) for line in done.stdout.split()]


def step(model, optimizer, t):
    torch.manual_seed(t)
    optimizer.zero_grad()
    x = torch.randn(32, 8)
    (model(x) - x[:, :1]).square().mean().backward()
    optimizer.step()


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))


# One line is swapped.
first, last = ran(SCRIPT, "old.pt")
assert last < first / 2, (first, last)
swapped = SCRIPT.replace("from torch.optim import AdamW as Optimizer", "from aida import Aida as Optimizer")
assert sum(a != b for a, b in zip(SCRIPT.splitlines(), swapped.splitlines(), strict=True)) == 1
first, last = ran(swapped, "new.pt")
assert last < first / 2, (first, last)

# Stepsizes are watched, from its checkpoint on.
model, new = network(), torch.load("new.pt", weights_only=True)
model.load_state_dict(new["model"])
optimizer = aida.Aida(model.parameters())
optimizer.load_state_dict(new["optimizer"])
monitor = StepsizeMonitor(optimizer, model, every=1, to=[JSONL("stepsizes.jsonl")])
for t in range(3):
    step(model, optimizer, t)
monitor.close()
rows = [json.loads(line) for line in Path("stepsizes.jsonl").read_text().splitlines()]
assert {"0.weight", "0.bias", "2.weight", "2.bias"} <= {row.get("parameter") for row in rows}

# AdamW's checkpoint is refused with the way on, and is a warm start.
model, old = network(), torch.load("old.pt", weights_only=True)
model.load_state_dict(old["model"])
optimizer = aida.Aida(model.parameters())
refusal = ""
try:
    optimizer.load_state_dict(old["optimizer"])
except ValueError as error:
    refusal = str(error)
assert "aida.convert_state(state_dict, optimizer)" in refusal, refusal
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    state = aida.convert_state(old["optimizer"], optimizer, source="torch.AdamW")
    optimizer.load_state_dict(state)
assert ["a warm start" in str(w.message) for w in told] == [True]
assert {float(state["step"]) for state in optimizer.state.values()} == {200.0}
step(model, optimizer, 0)

# AdaBelief's goes on as it would have.
from adabelief_pytorch import AdaBelief  # noqa: E402

ours, theirs = network().double(), network().double()
torch.set_default_dtype(torch.float64)
given = {"rectify": False, "weight_decouple": True, "fixed_decay": False}
source = AdaBelief(theirs.parameters(), lr=1e-2, eps=1e-8, weight_decay=0.1, print_change_log=False, **given)
for t in range(20):
    step(theirs, source, t)
ours.load_state_dict(theirs.state_dict())
optimizer = aida.AdaBelief(ours.parameters())
optimizer.load_state_dict(aida.convert_state(source.state_dict(), optimizer, **given))
for t in range(20, 40):
    step(theirs, source, t)
    step(ours, optimizer, t)
for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
    assert (p - q).abs().max().item() <= 1e-12
print("works")
