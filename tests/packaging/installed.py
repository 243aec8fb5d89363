"""Run by the Python of an environment with the installed package and what it needs, nothing else.

Arguments: the version, and "kernel" where the CPU kernel was built.
"""

import json
import sys
import sysconfig
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

import aida
from aida.monitor import JSONL, StepsizeMonitor

version, kernel = sys.argv[1], sys.argv[2] == "kernel"
place = Path(aida.__file__).parent
assert place.is_relative_to(sysconfig.get_path("purelib")), place
assert aida.__version__ == metadata.version("aida-optim") == version
assert (place / "py.typed").exists()
assert (place / "backends" / "_step_cpu.so").exists() == kernel
for absent in ("matplotlib", "typer", "pandas", "pytest"):
    assert find_spec(absent) is None, absent

BACKENDS = {"eager": {"foreach": False}, "foreach": {"foreach": True}, "auto": {}}
if kernel:
    BACKENDS["fused"] = {"fused": True}


def trained(member, dtype, **options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)).to(dtype)
    optimizer = member(model.parameters(), lr=1e-2, weight_decay=0.1, **options)
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(4, 5).to(dtype)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()]).double()


MEMBERS = [x for x in map(aida.__dict__.get, aida.__all__) if hasattr(x, "rule")]
assert len(MEMBERS) >= 6
for member in MEMBERS:
    reference = trained(member, torch.float64, foreach=False)
    for name, options in BACKENDS.items():
        for dtype, limit in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            off = (trained(member, dtype, **options) - reference).abs().max().item()
            assert off <= limit, f"{member.__name__}, {name}, {dtype}: {off}"

model = torch.nn.Linear(3, 2)
optimizer = aida.create_optimizer("aida", model, lr=1e-3)
with tempfile.TemporaryDirectory() as folder:
    monitor = StepsizeMonitor(optimizer, model, every=1, to=[JSONL(Path(folder) / "rows.jsonl")])
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    monitor.close()
    rows = [json.loads(line) for line in (Path(folder) / "rows.jsonl").read_text().splitlines()]
assert {"weight", "bias"} <= {row.get("parameter") for row in rows}, rows

# No training code came with it.
assert find_spec("aida_bench") is None
assert not (Path(sysconfig.get_path("scripts")) / "aida").exists()
print("works")
