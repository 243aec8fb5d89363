"""A few steps of every kernel, for tools that watch a program: python -m gpu.one_step [--dry].

--planted reads beyond an allocation, which a tool that works must report. 400 MB, beyond any cache: --large,
one layer, and --blocks, 25 layers in cache blocks, with Aida alone.
"""

from __future__ import annotations

import sys

import torch
import triton
import triton.language as tl

import aida
from gpu.device import Device, parameters

SHAPES = [(257, 129), (1000,), (1,), ()]
MEMBERS = {
    "Aida": lambda p: aida.Aida(p, fused=True, weight_decay=0.1),
    "Aida, bfloat16 moments": lambda p: aida.Aida(p, fused=True, state_dtype=torch.bfloat16),
    "LAdam, pre": lambda p: aida.LAdam(p, fused=True),
    "LAida, post": lambda p: aida.LAida(p, fused=True, layerwise="post"),
}


@triton.jit
def _beyond(pointer, out, offset):
    tl.store(out, tl.load(pointer + offset))


def plant(device: Device) -> None:
    """Read 64 MiB beyond 4 KiB; without torch's cache of blocks nothing of ours lies there."""
    a, out = (torch.zeros(1024, device=device.type) for _ in range(2))
    _beyond[(1,)](a, out, 2**24)
    device.synchronize()


def main() -> int:
    device = Device.find("--dry" in sys.argv)
    if "--planted" in sys.argv:
        plant(device)
        return 0
    large, blocks = "--large" in sys.argv, "--blocks" in sys.argv
    shapes = [(5000, 5000)] if large else [(1000, 1000)] * 25 if blocks else SHAPES
    for name, make in list(MEMBERS.items())[: 1 if blocks else None]:
        for of_l2 in (0,) if large else (1 / 2,) if blocks else (0, 1 / 2):
            optimizer = make(parameters([(9, 5), (3,), ()] if device.dry else shapes, device))
            with device.cache_blocks(of_l2):
                for _ in range(2):
                    optimizer.step()
            device.synchronize()
            print(f"{name}: two steps, {'in cache blocks' if of_l2 else 'simple'}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
