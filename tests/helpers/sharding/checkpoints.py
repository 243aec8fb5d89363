"""Checkpoints by torch.distributed.checkpoint, in the folder of the launch."""

from __future__ import annotations

import os
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict


def folder() -> Path:
    return Path(os.environ["AIDA_TEST_FOLDER"])


def save(model, optimizer, name, **options) -> None:
    states, moments = get_state_dict(model, optimizer)
    dcp.save(dict(model=states, optimizer=moments), checkpoint_id=folder() / name, **options)


def load(model, optimizer, name, **options) -> None:
    states, moments = get_state_dict(model, optimizer)
    found = dict(model=states, optimizer=moments)
    dcp.load(found, checkpoint_id=folder() / name, **options)
    set_state_dict(model, optimizer, model_state_dict=found["model"], optim_state_dict=found["optimizer"])
