"""What a kernel relies on of a tensor: where its memory is and how it is to be read.

A table of addresses that was made for one step may serve the next one only if all of this is as it was. It
is asked for at every step, of every tensor: in one call into C++ where the CPU kernel is built and torch's
stable C interface is there, else one by one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

PLAIN = frozenset(
    {Tensor, torch.nn.Parameter, torch.nn.Buffer}
)  # other classes may have no memory of their own
_impl = attrgetter("_cdata")


class Described(NamedTuple):
    """What describe() found of some tensors."""

    addresses: np.ndarray  # [n], int64
    # Of each: type, layout, device, whether the address is 0, size and place of the storage, shape, strides.
    facts: bytes | list[Any]

    def same(self, other: Described) -> bool:
        """Whether all but the addresses is the same."""
        return self.facts == other.facts


def describe(tensors: Sequence[Tensor]) -> Described | None:
    """All that a kernel relies on; None where a tensor is of a class that may have no memory of its own."""
    if not PLAIN.issuperset(map(type, tensors)):
        return None
    if (ask := _api()) is not None and (found := ask(tensors)) is not None:
        return Described(*found)
    return describe_one_by_one(tensors)


def describe_one_by_one(tensors: Sequence[Tensor]) -> Described:
    """describe() without the CPU kernel's library."""
    addresses = np.zeros(len(tensors), np.int64)
    facts = []
    for i, x in enumerate(tensors):
        of_memory: tuple[Any, ...] = ()
        if x.layout is torch.strided:
            addresses[i] = x.data_ptr()
            storage = x.untyped_storage().nbytes(), x.storage_offset()
            of_memory = (addresses[i] == 0, *storage, x.stride())
        facts.append((x.dtype, x.layout, x.device, x.shape, *of_memory))
    return Described(addresses, facts)


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
    reach = 0  # the last place of the dimensions seen so far
    dims = sorted((stride, n) for stride, n in zip(x.stride(), x.shape, strict=True) if n > 1)
    if all((reach := reach + (n - 1) * stride) < after for (stride, n), (after, _) in pairwise(dims)):
        return bool(dims and dims[0][0] == 0)
    places = np.zeros((), np.int64)  # interleaved dimensions are rare, so all places may be looked at
    for stride, n in dims:
        places = np.add.outer(places, stride * np.arange(n))
    return len(np.unique(places)) < places.size


# In the order of csrc/tensors.hpp.
QUESTIONS = ("data_ptr", "storage_size", "storage_offset", "dim", "sizes", "strides", "dtype", "layout",
             "device_type", "device_index")  # fmt: skip
LIBRARIES = ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll")


class _Api(ctypes.Structure):
    _fields_ = (*((name, ctypes.c_void_p) for name in QUESTIONS), ("strided", ctypes.c_int32))


class _Asker:
    """describe() in one call of the CPU kernel's library."""

    def __init__(self, function: Any, api: _Api) -> None:
        self._function, self._api, self._api_at = function, api, ctypes.addressof(api)
        self._room = 0

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[np.ndarray, bytes] | None:
        n = len(tensors)
        while True:
            room = max(self._room, 12 * n)
            table = np.empty(2 * n + room, np.int64)  # one, since an array's own address takes long to get
            table[:n] = np.fromiter(map(_impl, tensors), np.int64, n)
            at = table.ctypes.data
            used = self._function(self._api_at, at, n, at + 8 * n, at + 16 * n, room)
            if used != -1:
                return None if used < 0 else (table[n : 2 * n], table[2 * n : 2 * n + used].tobytes())
            self._room = 2 * room


@cache
def _api() -> _Asker | None:
    """None where the kernel is not built, or where torch's interface is missing or answers otherwise."""
    from . import cpu  # which asks for descriptions itself

    folder = Path(torch.__file__).parent / "lib"
    try:
        of_torch = ctypes.CDLL(str(next(folder / name for name in LIBRARIES if (folder / name).exists())))
        functions = [getattr(of_torch, f"aoti_torch_get_{name}") for name in QUESTIONS]
        addresses = [ctypes.cast(function, ctypes.c_void_p).value for function in functions]
        strided = of_torch.aoti_torch_layout_strided()
        function: Any = cpu.library().aida_describe  # type: ignore[union-attr]
    except (AttributeError, OSError, StopIteration):
        return None
    function.restype = ctypes.c_int64
    function.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int64] + [ctypes.c_void_p] * 2 + [ctypes.c_int64]
    ask = _Asker(function, _Api(*addresses, strided))
    return ask if _answers_as_torch(ask) else None


def _answers_as_torch(ask: _Asker) -> bool:
    """Whether the interface says of some tensors what they say of themselves."""
    whole = torch.zeros(7, 5, dtype=torch.float64, device="cpu")
    tensors = [whole, whole[1:, ::2], whole[0, 0].bfloat16()]
    found = ask(tensors)
    if found is None:
        return False
    addresses, facts = found[0], np.frombuffer(found[1], np.int64)
    at = 0
    for x, address in zip(tensors, addresses.tolist(), strict=True):
        storage = x.untyped_storage().nbytes(), x.storage_offset(), x.dim(), *x.shape, *x.stride()
        if address != x.data_ptr() or tuple(facts[at + 5 : at + 5 + len(storage)].tolist()) != storage:
            return False
        at += 5 + len(storage)
    return at == len(facts) and facts[0] != facts[-8]
