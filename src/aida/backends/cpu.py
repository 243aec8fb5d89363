"""The C++ kernel on CPU tensors: csrc/step_cpu.cpp, through ctypes and one table row per layer."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from . import blockwise
from .contract import SUMS, Coefficients, Layers, Scalars, is_one_number
from .tensors import increment_versions

LIBRARY = Path(os.environ.get("AIDA_CPU_LIBRARY") or Path(__file__).with_name("_step_cpu.so"))
TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
CODES = {"m": {blockwise.CODES[0]: 4}, "v": {blockwise.CODES[1]: 5}}  # in 8 bits
MODES = {None: 0, "pre": 1, "post": 2}
VARIANTS = ("baseline", "avx2", "avx512")  # instruction sets, by their number in the kernel
MIN_PARALLEL_NUMEL = 32768  # elements: below, waking a second thread costs more than it saves

# The kernel's Layer and Step, field by field.
_FIELDS = {
    np.int64: ("p", "g", "m", "v", "m_scale", "v_scale", "numel", "first_chunk"),
    np.float64: ("alpha", "beta", "inv_bias2", "eps_in_root", "eps_out", "step_size", "mean"),
    np.int32: ("p_type", "g_type", "m_type", "v_type"),
    np.uint32: ("key", "unused"),
}
LAYER = np.dtype([(name, kind) for kind, names in _FIELDS.items() for name in names])


class Step(ctypes.Structure):
    """csrc/chunks.hpp's Step: what all layers share."""

    _fields_ = (
        *((name, ctypes.c_double) for name in ("b1", "b2", "weight_decay", "decay_factor", "sign")),
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
    copies: list[tuple[Tensor | None, Tensor]]
    pooled: bool  # v is one number per layer
    numel: int  # of all layers
    room: np.ndarray  # for the sums of layers, then of chunks, of four columns at most
    rows_at: int  # addresses of both, which take NumPy as long to tell as an operation on them
    room_at: int


def unsupported_reason(dtype: torch.dtype, device: torch.device | None = None) -> str | None:
    """Why parameters of this type cannot be stepped here; None where they can."""
    if dtype.to_real() not in TYPES:
        return f"the CPU kernel has no {dtype}"
    found = library()
    return found if isinstance(found, str) else None


def prepare(layers: Layers) -> None:
    """Fill layers.prepared, or renew the gradients' addresses in it; raises where the kernel lacks a type."""
    if layers.prepared is not None and layers.addresses is not None:
        layers.prepared.rows["g"] = layers.addresses[1]
        return
    rows = np.zeros(len(layers.p), LAYER)
    columns = {"p": layers.p, "g": layers.g, "m": layers.m, "v": layers.v}
    numel = _each(Tensor.numel, layers.p)
    copies = []
    if not all(_plain(tensors, numel) for tensors in columns.values()):
        columns = {name: list(tensors) for name, tensors in columns.items()}
        for i in range(len(layers.p)):
            copies += _arrange(columns, i)
    for name, tensors in columns.items():
        rows[name] = _each(Tensor.data_ptr, tensors)
        _refuse_types(name, tensors)
        kinds = {**TYPES, **CODES.get(name, {})}
        rows[f"{name}_type"] = [kinds[x.dtype] for x in tensors]
    for name in ("m_scale", "v_scale"):
        rows[name] = _each(Tensor.data_ptr, getattr(layers, name)) or 0
    rows["numel"] = numel
    rows["first_chunk"][1:] = np.cumsum(-(-rows["numel"] // _chunk()))[:-1]
    pooled, total = _each(Tensor.numel, layers.v) != numel, sum(numel)
    room = np.empty(4 * (2 * len(rows) + total // _chunk()))
    layers.prepared = Prepared(rows, copies, pooled, total, room, _address(rows), _address(room))


def gram(layers: Layers, s: Scalars) -> np.ndarray:
    """As contract.Backend.gram."""
    return _sums(_kernel().aida_gram, layers, s, 4)


def stepsize_sum(layers: Layers, coefficients: Coefficients, s: Scalars) -> np.ndarray:
    """As contract.Backend.stepsize_sum."""
    _fill(layers, coefficients, s)
    return _sums(_kernel().aida_stepsize_sum, layers, s, 2)


def apply(layers: Layers, coefficients: Coefficients, total: Any, s: Scalars) -> None:
    """As contract.Backend.apply."""
    _fill(layers, coefficients, s)
    prepared = _prepared(layers)
    rows = prepared.rows
    if s.layerwise is not None:
        with np.errstate(all="ignore"):  # sums may be infinite
            rows["mean"] = _mean(layers, total, s)
    _kernel().aida_apply(prepared.rows_at, len(rows), _step(s), _threads(prepared.numel))
    increment_versions(layers.written())
    if prepared.copies:
        for tensor, copy in prepared.copies:
            if tensor is not None:
                tensor.copy_(copy)
        layers.prepared = None  # copies are as large as what they stand for, and hold its old values


def _mean(layers: Layers, total: Any, s: Scalars) -> Any:
    """Of r^2 ("pre") or u ("post")."""
    if s.layerwise == "pre":
        return np.asarray(total) / layers.numel
    u, count = np.asarray(total).T
    unmoved = 1 / (np.sqrt(np.asarray(s.eps_in_root)) + np.asarray(s.eps_out))
    return np.where(count == 0, unmoved, u / np.maximum(count, 1))


def _sums(function: Callable[..., None], layers: Layers, s: Scalars, columns: int) -> np.ndarray:
    prepared = _prepared(layers)
    count = len(prepared.rows)
    sums_at, partial_at = prepared.room_at, prepared.room_at + 8 * count * columns
    function(prepared.rows_at, count, _step(s), _threads(prepared.numel), partial_at, sums_at)
    return prepared.room[: count * columns].reshape(count, columns).copy()


def _prepared(layers: Layers) -> Prepared:
    if not isinstance(layers.prepared, Prepared):
        prepare(layers)
    return cast(Prepared, layers.prepared)


def _fill(layers: Layers, coefficients: Coefficients, s: Scalars) -> None:
    rows = _prepared(layers).rows
    rows["alpha"], rows["beta"] = coefficients
    for name in ("inv_bias2", "eps_in_root", "eps_out", "step_size"):
        column = getattr(s, name)
        rows[name] = column[0] if is_one_number(column) else column
    if s.keys is not None:
        rows["key"] = s.keys


def _step(s: Scalars) -> Step:
    numbers = s.b1, s.b2, s.weight_decay, float(s.decay_factor), s.sign
    at_random = s.keys is not None
    return Step(*numbers, MODES[s.layerwise], _variant(), at_random, at_random and s.round_p, _mask(s.sums))


@cache
def _mask(sums: tuple[str, ...]) -> int:
    return sum(1 << i for i, name in enumerate(SUMS) if name in sums)


def _plain(tensors: list[Tensor], numel: list[int]) -> bool:
    """Whether every tensor's elements lie in order; of a pooled v the one there is."""
    return (
        all(_each(Tensor.is_contiguous, tensors))
        and not any(_each(Tensor.is_neg, tensors))
        and _each(Tensor.numel, tensors) in (numel, [1] * len(numel))
    )


def _arrange(columns: dict[str, list[Tensor]], i: int) -> list[tuple[Tensor | None, Tensor]]:
    """Bring layer i's tensors into one memory order, m's own where m is dense, by copies where needed."""
    p, m = columns["p"][i], columns["m"][i]
    dense = torch.ops.aten.is_non_overlapping_and_dense(m) and not m.is_neg()
    strides = m.stride() if dense else torch.empty(p.shape, device="meta").stride()
    copies: list[tuple[Tensor | None, Tensor]] = []
    for name, tensors in columns.items():
        x = tensors[i]
        if (x.stride() != strides and x.dim() == p.dim()) or x.is_neg():
            shape, lies = (p.shape, strides) if x.dim() else ((), ())
            tensors[i] = torch.empty_strided(shape, lies, dtype=x.dtype, device="cpu").copy_(x)
            copies.append((x if name != "g" else None, tensors[i]))
    return copies


def _refuse_types(name: str, tensors: list[Tensor]) -> None:
    what = {"p": "the parameter", "g": "the gradient", "m": "exp_avg", "v": "exp_avg_var"}[name]
    for i, x in enumerate(tensors):
        if x.dtype not in TYPES and x.dtype not in CODES.get(name, {}):
            known = ", ".join(map(str, TYPES))
            raise RuntimeError(
                f"{what} of layer {i} of its group is {x.dtype}, which the CPU kernel does not have: "
                f"nothing was stepped; make it one of {known}, or set fused=False"
            )


def _each(get: Callable[[Tensor], Any], tensors: list[Tensor]) -> list[Any]:
    return list(map(get, tensors))


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


def _threads(numel: int) -> int:
    if _forked or numel <= MIN_PARALLEL_NUMEL:
        return 1
    return torch.get_num_threads()


_forked = False


def _after_fork() -> None:
    """OpenMP's threads are not there in a child, which would never stop waiting for them: it steps on one."""
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@cache
def library() -> ctypes.CDLL | str:
    """The loaded kernel, or why there is none."""
    if not LIBRARY.exists():
        return (
            "aida was installed without its CPU kernel: install a C++ compiler, such as g++, then aida again"
        )
    try:
        found = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        return f"the CPU kernel cannot be loaded ({error}); install aida again on this machine"
    address, count = ctypes.c_void_p, ctypes.c_int64
    signatures = {
        "aida_gram": (address, count, ctypes.POINTER(Step), ctypes.c_int, address, address),
        "aida_stepsize_sum": (address, count, ctypes.POINTER(Step), ctypes.c_int, address, address),
        "aida_apply": (address, count, ctypes.POINTER(Step), ctypes.c_int),
    }
    for name, arguments in signatures.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, None
    for name in ("aida_layer_bytes", "aida_step_bytes", "aida_chunk", "aida_best_variant"):
        getattr(found, name).restype = count
    if (found.aida_layer_bytes(), found.aida_step_bytes()) != (LAYER.itemsize, ctypes.sizeof(Step)):
        return "the CPU kernel is of another version than this aida; install aida again"
    _asked_variant()  # a wrong value raises before anything is stepped
    return found


def instruction_set() -> str:
    """The one that the kernel uses."""
    return VARIANTS[_variant()]


def _kernel() -> ctypes.CDLL:
    found = library()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


@cache
def _chunk() -> int:
    return _kernel().aida_chunk()


@cache
def _variant() -> int:
    """The instruction set: the widest of this machine, or what AIDA_CPU_VARIANT asks for if it is there."""
    best, asked = _kernel().aida_best_variant(), _asked_variant()
    if asked is not None and asked > best:
        warnings.warn(
            f"AIDA_CPU_VARIANT: this CPU has no {VARIANTS[asked]}; {VARIANTS[best]} is used in its place",
            stacklevel=2,
        )
    return best if asked is None else min(asked, best)


def _asked_variant() -> int | None:
    value = os.environ.get("AIDA_CPU_VARIANT", "")
    if not value:
        return None
    known = {name: i for i, name in enumerate(VARIANTS)}
    known |= {str(i): i for i in known.values()}
    if value not in known:
        raise ValueError(
            f"AIDA_CPU_VARIANT: {value!r} is no instruction set of the CPU kernel; "
            f"set it to {', '.join(VARIANTS)} (or 0, 1, 2), or unset it for the widest that this CPU has"
        )
    return known[value]
