"""What a kernel relies on of a tensor: where its memory is and how it is to be read.

A table of addresses that was made for one step may serve the next one only if all of this is as it was. It
is asked for at every step, of every tensor: in one call into C++ where the CPU kernel is built and torch and
Python are found as it knows them, else one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .tensor_api import Described, tensor_api

PLAIN = frozenset(
    {Tensor, torch.nn.Parameter, torch.nn.Buffer}
)  # other classes may have no memory of their own


def describe(
    tensors: list[Tensor], dicts: list[dict[str, Any]], keys: list[str], moving: slice
) -> Described | None:
    """All that a kernel relies on; None where a tensor is of a class that may have no memory of its own.

    dicts, keys: what each dict has under each key comes after `tensors`. moving: the places of those that may
    be another tensor each time, at another address.
    """
    if (api := tensor_api()) is not None:
        found = api.describe(tensors, dicts, keys, moving)
        if found is not None:
            return found
    every = [*tensors, *(x.get(key) for x in dicts for key in keys)]
    return describe_one_by_one(every, moving) if PLAIN.issuperset(map(type, every)) else None


def describe_one_by_one(tensors: Sequence[Any], moving: slice) -> Described:
    """describe() without the CPU kernel's library."""
    addresses = np.zeros(len(tensors), np.int64)
    facts = []
    places = range(len(tensors))[moving]
    for i, x in enumerate(tensors):
        of_memory: tuple[Any, ...] = ()
        if x.layout is torch.strided:
            addresses[i] = x.data_ptr()
            storage = x.untyped_storage().nbytes(), x.storage_offset()
            of_memory = (addresses[i] == 0, *storage, x.stride())
        own = () if i in places else (id(x), int(addresses[i]))
        facts.append((*own, x.dtype, x.layout, x.device, x.shape, x.is_neg(), *of_memory))
    return Described(addresses, facts)


def increment_versions(tensors: list[Tensor]) -> None:
    """Tell autograd that tensors were written to."""
    api = tensor_api()
    if api is None or not api.increment_versions(tensors):
        torch.autograd.graph.increment_version(tensors)


def counts(counters: list[Tensor]) -> list[float]:
    """What step counters hold, which are float32 and on the CPU as describe() has found them."""
    api = tensor_api()
    return [x.item() for x in counters] if api is None else api.counts(counters)


def advance(counters: list[Tensor]) -> None:
    """Add 1 to such counters."""
    api = tensor_api()
    if api is None:
        torch._foreach_add_(counters, 1)
    elif not api.advance(counters):
        torch.autograd.graph.increment_version(counters)


def fits(x: Tensor) -> bool:
    """Whether the storage of a strided tensor holds all its elements: its own resize_ asks no tensor."""
    if not x.numel() or x.device.type == "meta":
        return True
    if x.data_ptr() == 0:  # torch's own zeros without memory, whose storage claims to have some
        return False
    last = x.storage_offset() + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    return int(last + 1) * x.element_size() <= x.untyped_storage().nbytes()


def overlaps_itself(x: Tensor) -> bool:
    """Whether two elements of a strided tensor lie in one place of memory, so that it cannot be written."""
    if not x.numel():
        return False
    reach = 0  # the last place of the dimensions seen so far
    dims = sorted((stride, n) for stride, n in zip(x.stride(), x.shape, strict=True) if n > 1)
    if all((reach := reach + (n - 1) * stride) < after for (stride, n), (after, _) in pairwise(dims)):
        return bool(dims and dims[0][0] == 0)
    places = np.zeros((), np.int64)  # interleaved dimensions are rare, so all places may be looked at
    for stride, n in dims:
        places = np.add.outer(places, stride * np.arange(n))
    return len(np.unique(places)) < places.size
