"""Many tensors asked, or written to, in one call into C++: the functions of csrc/tensors.hpp.

They call torch's and Python's own, and include no header of either: all that they need to know of both is
looked for in the running process, and tried on some tensors before it is used.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Described(NamedTuple):
    """What describe() found of some tensors."""

    addresses: np.ndarray  # [n], int64
    # Of each: the object and its address unless it may be another one, type, layout, device, whether the
    # address is 0, whether it is a negated view, size and place of the storage, shape, strides.
    facts: bytes | list[Any]

    def same(self, other: Described) -> bool:
        """Whether all is the same, but for the addresses of those that may be others."""
        return self.facts == other.facts


# In the order of csrc/tensors.hpp. C++ names are mangled as on Linux and macOS.
QUESTIONS = ("data_ptr", "storage_size", "storage_offset", "dim", "sizes", "strides", "dtype", "layout",
             "device_type", "device_index")  # fmt: skip
OF_TORCH = (
    *(f"aoti_torch_get_{name}" for name in QUESTIONS),
    "_ZN2at6native6is_negERKNS_6TensorE",
    "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE",
)
OF_PYTHON = ("PyList_GetItem", "PyList_Size", "PyDict_GetItemWithError")
PLACES = ("strided", "type_at", "impl_at", "plain_tensor", "plain_parameter")
NO_ROOM = -1
LIBRARIES = ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll")


class _Api(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in (*OF_TORCH, *OF_PYTHON)),
        *((name, ctypes.c_int64) for name in PLACES),
    )


class TensorApi:
    """The functions of csrc/tensors.hpp on lists of tensors, called with Python's lock."""

    def __init__(self, library: Any, api: _Api) -> None:
        self._api, self._api_at = api, ctypes.addressof(api)  # which has to stay alive
        number, address, given = ctypes.c_int64, ctypes.c_void_p, ctypes.py_object

        def function(name: str, result: Any, *arguments: Any) -> Any:
            found = getattr(library, name)
            found.restype, found.argtypes = result, [address, given, *arguments]
            return found

        self._describe = function(
            "aida_describe", number, given, given, number, number, address, address, number
        )
        self._increment_versions = function("aida_bump_versions", ctypes.c_bool)
        self._counts = function("aida_counts", ctypes.c_bool, address)
        self._advance = function("aida_advance", ctypes.c_bool)
        self._room = 0

    def describe(
        self, tensors: list[Tensor], dicts: list[dict[str, Any]], keys: list[str], moving: slice
    ) -> Described | None:
        """As describe() in tensors.py; None where torch has no answer, too."""
        n = len(tensors) + len(dicts) * len(keys)
        while True:
            room = max(self._room, 9 * n)
            table = np.empty(n + room, np.int64)  # one, since an array's own address takes long to get
            at = table.ctypes.data
            places = moving.start, moving.stop, at, at + 8 * n, room
            used = self._describe(self._api_at, tensors, dicts, keys, *places)
            if used != NO_ROOM:
                return None if used < 0 else Described(table[:n], table[n : n + used].tobytes())
            self._room = 2 * room

    def increment_versions(self, tensors: list[Tensor]) -> bool:
        """Whether autograd was told that all were written to."""
        return self._increment_versions(self._api_at, tensors)

    def counts(self, counters: list[Tensor]) -> list[float]:
        """What float32 counters on the CPU hold."""
        n = len(counters)
        out = (ctypes.c_double * n)()
        return [out[0]] * n if self._counts(self._api_at, counters, out) else out[:]

    def advance(self, counters: list[Tensor]) -> bool:
        """Add 1 to them; whether autograd was told."""
        return self._advance(self._api_at, counters)


@cache
def tensor_api() -> TensorApi | None:
    """None where the kernel is not built, or where torch or Python lack something or answer otherwise."""
    from . import cpu  # which uses this file itself

    kernel = cpu.library()
    if isinstance(kernel, str):
        return None
    folder = Path(torch.__file__).parent / "lib"
    try:
        of_torch = ctypes.CDLL(str(next(folder / name for name in LIBRARIES if (folder / name).exists())))
        functions = [getattr(of_torch, name) for name in OF_TORCH]
        functions += [getattr(ctypes.pythonapi, name) for name in OF_PYTHON]
        places = of_torch.aoti_torch_layout_strided(), *_places(), id(Tensor), id(torch.nn.Parameter)
    except (AttributeError, OSError, StopIteration):
        return None
    addresses = [ctypes.cast(function, ctypes.c_void_p).value for function in functions]
    api = TensorApi(ctypes.PyDLL(str(cpu.LIBRARY), handle=kernel._handle), _Api(*addresses, *places))
    return api if _answers_as_torch(api) else None


def _places() -> tuple[int, int]:
    """Where tensors of Python have their type and their TensorImpl; StopIteration where that differs."""
    x = torch.zeros(3, dtype=torch.float32, device="cpu")
    samples = (x, torch.nn.Parameter(x), x[1:])

    def word(x: Tensor, at: int) -> int | None:
        return ctypes.c_void_p.from_address(id(x) + at).value

    words = range(0, Tensor.__basicsize__, ctypes.sizeof(ctypes.c_void_p))  # type: ignore[attr-defined]
    type_at = next(at for at in words if all(word(x, at) == id(type(x)) for x in samples))
    return type_at, next(at for at in words if all(word(x, at) == x._cdata for x in samples))


def _answers_as_torch(api: TensorApi) -> bool:
    """Whether the interface says of some tensors what they say of themselves."""
    whole = torch.zeros(7, 5, dtype=torch.float64, device="cpu")
    counter = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float32, device="cpu"), requires_grad=False)
    tensors = [whole, whole[1:, ::2], counter, torch._neg_view(whole[0])]  # type: ignore[attr-defined]
    found = api.describe(tensors[:2], [dict(zip("ab", tensors[2:], strict=True))], ["a", "b"], slice(0, 1))
    if found is None or found.addresses.tolist() != [x.data_ptr() for x in tensors]:
        return False
    facts = np.frombuffer(found.facts, np.int64).tolist()  # type: ignore[arg-type]
    kinds = []
    for x in tensors:
        own = (0, 0) if x is whole else (id(x), x.data_ptr())
        storage = x.untyped_storage().nbytes(), x.storage_offset(), *x.shape, *x.stride()
        kinds.append(facts[2])
        if facts[:2] != [*own] or facts[3 : 3 + len(storage)] != [*storage]:
            return False
        facts = facts[3 + len(storage) :]
    if facts or [kind & 1 for kind in kinds] != [0, 0, 0, 1] or kinds[0] != kinds[1] or len({*kinds}) < 3:
        return False
    versions = whole._version, counter._version
    told = api.increment_versions([counter]) and api.advance([counter])
    return told and (whole._version, counter._version - 2) == versions and api.counts([counter]) == [3.0]
