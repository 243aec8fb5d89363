"""The states of the generators that a run draws from, kept in its checkpoints."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from aida_bench.storage.files import Row


def random_states(device: torch.device) -> Row:
    """The states of all global generators that a run on `device` draws from, in types for torch.load."""
    # numpy's legacy generator, because libraries that a task uses may draw from it.
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        # Of this device alone: a run goes on where there are fewer.
        "device": None if device.type == "cpu" else _generator(device).get_rng_state(*_at(device)),
    }


def set_random_states(states: Row, device: torch.device) -> None:
    kind, keys, *rest = states["numpy"]
    random.setstate(states["python"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["device"] is not None:
        _generator(device).set_rng_state(states["device"], *_at(device))


def _generator(device: torch.device) -> Any:
    return torch.get_device_module(device)


def _at(device: torch.device) -> list[torch.device]:
    """torch.mps has one device and takes no argument for it."""
    return [] if device.type == "mps" else [device]
