"""The C++ kernel on CPU tensors: csrc/step_cpu.cpp, through ctypes and one table row a layer."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from .contract import SUMS, Coefficients, Layers, Scalars

LIBRARY = Path(os.environ.get("AIDA_CPU_LIBRARY") or Path(__file__).with_name("_step_cpu.so"))
TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
MODES = {None: 0, "pre": 1, "post": 2}
FEW = 32768  # elements: below, waking a second thread costs more than it saves

# The kernel's Layer and Step, field by field.
_FIELDS = {
    np.int64: ("p", "g", "m", "v", "numel", "first_chunk"),
    np.float64: ("alpha", "beta", "inv_bias2", "floor", "eps_out", "step_size", "mean"),
    np.int32: ("p_type", "g_type", "m_type", "v_type"),
    np.uint32: ("key", "unused"),
}
LAYER = np.dtype([(name, kind) for kind, names in _FIELDS.items() for name in names])


class Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_double) for name in ("b1", "b2", "weight_decay", "shrink", "sign")),
        *(
            (name, ctypes.c_int32)
            for name in ("mode", "variant", "round_moments", "round_p", "sums", "unused")
        ),
    )


@dataclass(slots=True)
class Prepared:
    """Rows of the table, and for each layer the (tensor, copy) pairs that the kernel works on in its place.

    None in place of a gradient: it is not written, but the kernel reads its copy, which has to stay alive.
    """

    rows: np.ndarray
    copies: list[list[tuple[Tensor | None, Tensor]]]
    pooled: bool  # v is one number a layer
    addresses: dict[str, list[int]] = field(default_factory=dict)
    strides: list[tuple[int, ...]] = field(default_factory=list)

    def again(self, layers: Layers) -> bool:
        """Whether p, m and v are where they were, and gradients, whose rows are filled, lie as p does."""
        g = layers.g
        if (
            not self.strides
            or any(_each(Tensor.data_ptr, getattr(layers, name)) != self.addresses[name] for name in "pmv")
            or _each(Tensor.stride, layers.p) != self.strides
            or _each(Tensor.stride, g) != self.strides
            or {*_each(attrgetter("dtype"), g)} != {layers.p[0].dtype}
            or not all(_each(attrgetter("is_cpu"), g))
            or any(_each(Tensor.is_neg, g))
            or _each(Tensor.numel, g) != _each(Tensor.numel, layers.p)
            or 0 in (addresses := _each(Tensor.data_ptr, g))
        ):
            return False
        self.rows["g"] = addresses
        return True


def reason(dtype: torch.dtype, device: torch.device | None = None) -> str | None:
    """Why parameters of this type can not be stepped here; None where they can."""
    if dtype.to_real() not in TYPES:
        return f"the CPU kernel has no {dtype}"
    found = _library()
    return found if isinstance(found, str) else None


def prepare(layers: Layers) -> None:
    """Fill layers.prepared; raises RuntimeError for a tensor that the kernel must not be given."""
    if layers.prepared is not None and layers.prepared.again(layers):
        return
    rows = np.zeros(len(layers.p), LAYER)
    copies: list[list[tuple[Tensor | None, Tensor]]] = [[] for _ in layers.p]
    columns = {"p": layers.p, "g": layers.g, "m": layers.m, "v": layers.v}
    numel = _each(Tensor.numel, layers.p)
    if not all(_plain(name, tensors, numel) for name, tensors in columns.items()):
        columns = {name: list(tensors) for name, tensors in columns.items()}
        for i in range(len(layers.p)):
            _arrange(columns, i, copies[i])
    for name, tensors in columns.items():
        rows[name] = addresses = _each(Tensor.data_ptr, tensors)
        if 0 in addresses:
            _refuse_freed(name, tensors)
        types = _types(tensors)
        rows[f"{name}_type"] = types.pop() if len(types) == 1 else [TYPES[x.dtype] for x in tensors]
    rows["numel"] = numel
    rows["first_chunk"][1:] = np.cumsum(-(-rows["numel"] // _chunk()))[:-1]
    layers.prepared = Prepared(rows, copies, _each(Tensor.numel, layers.v) != numel)
    if not any(copies) and {*_each(attrgetter("dtype"), layers.g)} == {layers.p[0].dtype}:
        layers.prepared.addresses = {name: rows[name].tolist() for name in "pmv"}
        layers.prepared.strides = _each(Tensor.stride, layers.p)


def advance(counters: list[Tensor]) -> list[float] | None:
    """Add 1 to every step counter and return the new counts; None, and nothing done, where it can not."""
    if {*_each(attrgetter("dtype"), counters)} != {torch.float32} or not all(
        _each(attrgetter("is_cpu"), counters)
    ):
        return None
    addresses = np.array(_each(Tensor.data_ptr, counters), np.int64)
    counts = np.empty(len(counters))
    _kernel().aida_advance(_address(addresses), len(counters), _address(counts))
    torch.autograd.graph.increment_version(counters)
    return counts.tolist()


def gram(layers: Layers, s: Scalars) -> np.ndarray:
    return _sums(_kernel().aida_gram, layers, s, 4)


def stepsize_sum(layers: Layers, coefficients: Coefficients, s: Scalars) -> np.ndarray:
    _fill(layers, coefficients, s)
    return _sums(_kernel().aida_stepsize_sum, layers, s, 1)[:, 0]


def apply(layers: Layers, coefficients: Coefficients, total: Any, s: Scalars) -> None:
    _fill(layers, coefficients, s)
    rows = _prepared(layers).rows
    if s.layerwise:
        rows["mean"] = np.asarray(total) / layers.numel
    _kernel().aida_apply(_address(rows), len(rows), _step(s), _threads(rows))
    for tensors in (layers.p, layers.m, layers.v):
        torch.autograd.graph.increment_version(tensors)
    for pairs in _prepared(layers).copies:
        for tensor, copy in pairs:
            if tensor is not None:
                tensor.copy_(copy)


def _sums(function: Callable[..., None], layers: Layers, s: Scalars, columns: int) -> np.ndarray:
    rows = _prepared(layers).rows
    sums = np.empty((len(rows), columns))
    room = np.empty((len(rows) + int(rows["numel"].sum()) // _chunk(), columns))
    function(_address(rows), len(rows), _step(s), _threads(rows), _address(room), _address(sums))
    return sums


def _prepared(layers: Layers) -> Prepared:
    if not isinstance(layers.prepared, Prepared):
        prepare(layers)
    return cast(Prepared, layers.prepared)


def _fill(layers: Layers, coefficients: Coefficients, s: Scalars) -> None:
    rows = _prepared(layers).rows
    if _prepared(layers).pooled and s.layerwise != "pre":
        raise RuntimeError(
            f"exp_avg_var is one number a layer, and layerwise={s.layerwise!r} needs one an element: nothing "
            "was stepped; load a state that was saved with the same layerwise"
        )
    rows["alpha"], rows["beta"] = coefficients
    for name in ("inv_bias2", "floor", "eps_out", "step_size"):
        column = getattr(s, name)
        rows[name] = column[0] if len({*column}) == 1 else column
    if s.keys is not None:
        rows["key"] = s.keys


def _step(s: Scalars) -> Step:
    numbers = s.b1, s.b2, s.weight_decay, float(s.shrink), s.sign
    at_random = s.keys is not None
    sums = sum(1 << i for i, name in enumerate(SUMS) if name in s.sums)
    return Step(*numbers, MODES[s.layerwise], _variant(), at_random, at_random and s.round_p, sums)


def _plain(name: str, tensors: list[Tensor], numel: list[int]) -> bool:
    """Every tensor lies contiguously on the CPU in a type the kernel knows, and is as large as its p."""
    of_each = numel if name == "p" else _each(Tensor.numel, tensors)
    return (
        all(_each(Tensor.is_contiguous, tensors))
        and all(_each(attrgetter("is_cpu"), tensors))
        and not (name in "pg" and any(_each(Tensor.is_neg, tensors)))  # state never is
        and None not in _types(tensors)
        and (of_each == numel or (name == "v" and of_each == [1] * len(numel)))
    )


def _arrange(columns: dict[str, list[Tensor]], i: int, copies: list[tuple[Tensor | None, Tensor]]) -> None:
    """Bring layer i's tensors into one memory order, p's own where p is dense, by copies where needed."""
    p = columns["p"][i]
    for name, tensors in columns.items():
        x = tensors[i]
        _refuse(name, i, x, p, pooled=name == "v" and x.dim() == 0)
    dense = torch.ops.aten.is_non_overlapping_and_dense(p) and not p.is_neg()
    strides = p.stride() if dense else torch.empty(p.shape, device="meta").stride()
    for name, tensors in columns.items():
        x = tensors[i]
        if (x.stride() != strides and x.dim() == p.dim()) or x.is_neg():
            tensors[i] = torch.empty_strided(p.shape, strides, dtype=x.dtype).copy_(x)
            copies.append((x if name != "g" else None, tensors[i]))


def _refuse(name: str, i: int, x: Tensor, p: Tensor, *, pooled: bool) -> None:
    what = {"p": "parameter", "g": "gradient of parameter", "m": "exp_avg of parameter"}
    what = f"the {what.get(name, 'exp_avg_var of parameter')} {i} of its group"
    if x.device.type != "cpu":
        raise RuntimeError(
            f"{what} is on {x.device}, and the parameter on cpu: nothing was stepped; "
            "move the model before its optimizer is made, or load the optimizer's state again"
        )
    if x.shape != p.shape and not pooled:
        raise RuntimeError(
            f"{what} has shape {tuple(x.shape)}, and the parameter {tuple(p.shape)}: nothing was stepped; "
            "give a parameter that changes its shape to a new optimizer"
        )
    if x.dtype not in TYPES:
        raise RuntimeError(
            f"{what} is {x.dtype}, which the CPU kernel does not have: nothing was stepped; "
            f"it has {', '.join(map(str, TYPES))}"
        )


def _refuse_freed(name: str, tensors: list[Tensor]) -> None:
    for i, x in enumerate(tensors):
        if x.data_ptr() == 0 and x.numel():
            raise RuntimeError(
                f"{name} of parameter {i} of its group, of shape {tuple(x.shape)}, has no memory: it was "
                "freed since the last step; nothing was stepped; restore it, or set its gradient to None"
            )


def _types(tensors: list[Tensor]) -> set[int | None]:
    return {TYPES.get(dtype) for dtype in {*_each(attrgetter("dtype"), tensors)}}


def _each(get: Callable[[Tensor], Any], tensors: list[Tensor]) -> list[Any]:
    return list(map(get, tensors))


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


def _threads(rows: np.ndarray) -> int:
    return torch.get_num_threads() if int(rows["numel"].sum()) > FEW else 1


@cache
def _library() -> ctypes.CDLL | str:
    """The loaded kernel, or why there is none."""
    if not LIBRARY.exists():
        return (
            "aida was installed without its CPU kernel; install a C++ compiler with OpenMP (g++ or clang++), "
            "then aida again"
        )
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        return f"the CPU kernel can not be loaded ({error}); install aida again on this machine"
    address, count = ctypes.c_void_p, ctypes.c_int64
    signatures = {
        "aida_advance": (address, count, address),
        "aida_gram": (address, count, ctypes.POINTER(Step), ctypes.c_int, address, address),
        "aida_stepsize_sum": (address, count, ctypes.POINTER(Step), ctypes.c_int, address, address),
        "aida_apply": (address, count, ctypes.POINTER(Step), ctypes.c_int),
    }
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    for name in ("aida_layer_bytes", "aida_step_bytes", "aida_chunk", "aida_best_variant"):
        getattr(library, name).restype = count
    if (library.aida_layer_bytes(), library.aida_step_bytes()) != (LAYER.itemsize, ctypes.sizeof(Step)):
        return "the CPU kernel is of another version than this aida; install aida again"
    return library


def _kernel() -> ctypes.CDLL:
    library = _library()
    if isinstance(library, str):
        raise RuntimeError(library)
    return library


@cache
def _chunk() -> int:
    return _kernel().aida_chunk()


@cache
def _variant() -> int:
    """The widest instruction set of this machine: 0 any, 1 AVX2, 2 AVX-512."""
    return _kernel().aida_best_variant()
