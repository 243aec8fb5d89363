"""What the earlier waves of a step have written is taken back where a later one raises."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .layer_batch import LayerBatch


@contextmanager
def undone_on_error(batches: Sequence[LayerBatch], ticks: Sequence[Tensor], state: Any) -> Generator[None]:
    """Take back what these batches have written if what follows raises: they are copied, and are few.

    ticks: counters of theirs that are advanced beside those of the state.
    """
    written = [x for b in batches for x in chain(b.layers.written(), b.steps)]
    written += ticks
    copies = [x.detach().clone() for x in written]
    layers = [(p, of_p) for b in batches for p, of_p in zip(b.params, b.states, strict=True)]
    entries = [(p, state.get(p), of_p, {**of_p}) for p, of_p in layers]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for x, copy in zip(written, copies, strict=True):
                x.copy_(copy)
        for p, entry, of_p, content in entries:
            of_p.clear()
            of_p.update(content)
            if entry is None:
                state.pop(p, None)
            else:
                state[p] = entry
        raise
