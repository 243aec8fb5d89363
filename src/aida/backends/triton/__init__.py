"""One launch per function for all layers, on what Triton compiles for: CUDA, ROCm, XPU.

The device finds the layers through a table of addresses, uploaded from pinned memory when one has changed,
and a table of chunks, made once. Nothing waits for the device, and a CUDA graph can capture it all.
Kernels, and the columns of their tables: kernels.py.
What a step reads twice comes from the device's cache where AIDA_TRITON_L2_BYTES asks for it, see step().
Deviation from torch's fused steps: grad_scale divides gradients as they are read, p.grad is not written.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import Tensor

from ..contract import Coefficients, Layers, Projection, Scalars
from . import tables

SUPPORTS_GRAD_SCALE = True  # divides by grad_scale, and takes no step where found_inf says so
TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
CHUNK, ROWS, LANES, WARPS = 16384, 256, 8, 8  # elements of a program; of a block, ROWS*LANES
AS_WRITTEN = {"enable_fp_fusion": False}  # a compiler's option: each operation is rounded, as tensors' are


def unsupported_reason(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why parameters of this type cannot be stepped on `device`; None where they can."""
    if dtype.to_real() not in TYPES:
        return f"the Triton backend has no {dtype}"
    if device.type not in ("cuda", "xpu"):
        return f"the Triton backend steps parameters on cuda and xpu devices, and these are on {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "the Triton backend needs the package triton, which is not installed: pip install triton"
    return _lacks(device)


def prepare(layers: Layers) -> None:
    """Find the tables, as far as they are not there already."""
    layers.prepared = tables.find(layers, CHUNK)


def gram(layers: Layers, s: Scalars) -> Tensor:
    """As contract.Backend.gram."""
    return _Call(layers, s).sums("gram", 4)


def stepsize_sum(layers: Layers, coefficients: Coefficients, s: Scalars) -> Tensor:
    """As contract.Backend.stepsize_sum."""
    call = _Call(layers, s)
    return call.sums("stepsize", 2, numbers=call.numbers(coefficients, None))


def apply(layers: Layers, coefficients: Coefficients, total: Any, s: Scalars) -> None:
    """As contract.Backend.apply."""
    call = _Call(layers, s)
    numbers, keys = call.numbers(coefficients, total), call.keys()
    for group in call.layout.groups:
        call.update(group, numbers, keys)
    tables.write_back(layers)


def cache_block_bytes() -> int:
    """AIDA_TRITON_L2_BYTES: how much of the cache a block of layers may fill; 0, the default: no blocks."""
    value = os.environ.get("AIDA_TRITON_L2_BYTES", "").strip() or "0"
    if not value.isdecimal():
        raise ValueError(
            f"AIDA_TRITON_L2_BYTES: {value!r} is no number of bytes; set it to a whole number, such as half "
            "of the device's L2 cache, or unset it for a step without cache blocks"
        )
    return int(value)


def step(layers: Layers, rule: Coefficients | Projection, s: Scalars) -> None:
    """As contract.Backend.step: sums and update of one cache block after the other.

    A block is a run of layers of which what is read twice (g and m; p where decay is coupled; v for "post")
    has at most cache_block_bytes(), so that the update may find it in the cache. Each pass over a block goes
    the other way than the one before: of a layer larger than the cache, the end is there. The rule is
    evaluated by a kernel: tensor operations between sums and update would cost more than is saved.
    """
    call = _Call(layers, s)
    projected = isinstance(rule, Projection)
    (K, xi), (alpha, beta) = (rule, (1.0, 1.0)) if projected else ((0, 0.0), rule)
    sums, stepsizes = (call.table(call.layout.n_chunks, columns) for columns in (4, 2))
    nothing_moved = torch.zeros_like(call.layout.ranges) if s.layerwise == "post" else None
    numbers, keys = call.numbers((alpha, beta), nothing_moved), call.keys()
    read = "gm" + "p" * (s.weight_decay != 0) + "v" * (s.layerwise == "post")
    for block in tables.cache_blocks(call.layout.groups, CHUNK, read, cache_block_bytes()):
        if projected or s.layerwise == "pre":
            call.sum_chunks("gram", block, sums)
            call.launch(
                "coefficients", block.layers, block, partial=sums, layers=block.layers, numbers=numbers,
                alpha=alpha, beta=beta, K=K, xi=xi, PROJECTED=projected,
                options=AS_WRITTEN,
            )  # fmt: skip
        if s.layerwise == "post":
            call.sum_chunks("stepsize", block, stepsizes, numbers=numbers, REVERSED=True)
            call.launch(
                "mean_stepsize", block.layers, block, partial=stepsizes, layers=block.layers, numbers=numbers
            )
        call.update(block, numbers, keys, REVERSED=s.layerwise != "post")
    tables.write_back(layers)


class _Call:
    """The tables of one call, and what its launches share."""

    def __init__(self, layers: Layers, s: Scalars) -> None:
        if layers.prepared is None:
            prepare(layers)
        found: Any = layers.prepared
        self.s = s
        self.device = layers.p[0].device
        self.layout = found.layout
        self.shared = dict(
            pointers=found.pointers,
            numels=self.layout.numels,
            ranges=self.layout.ranges,
            wholes=self.layout.wholes,
            grad_scale=None if s.grad_scale is None else s.grad_scale.to(self.device, non_blocking=True),
            found_inf=None if s.found_inf is None else s.found_inf.to(self.device, non_blocking=True),
            b1=s.b1,
            b2=s.b2,
            weight_decay=s.weight_decay,
            sign=s.sign,
            LAYERWISE=s.layerwise,
            ROUND=s.keys is not None,
            ROUND_P=s.keys is not None and s.round_p,
            DECAY=s.weight_decay != 0,
            REVERSED=False,
            CHUNK=CHUNK,
            ROWS=ROWS,
            LANES=LANES,
        )

    def sums(self, kernel: str, columns: int, **tables: Tensor) -> Tensor:
        """[L, columns] of a kernel that sums over chunks."""
        partial = self.table(self.layout.n_chunks, columns)
        for group in self.layout.groups:
            self.sum_chunks(kernel, group, partial, **tables)
        out = self.table(len(self.layout.numels), columns)
        self.launch("total", out, None, partial=partial, out=out, COLUMNS=columns)
        return out

    def sum_chunks(self, kernel: str, group: tables.Group, partial: Tensor, **arguments: Any) -> None:
        """The group's rows of `partial`, from a kernel that sums over chunks."""
        part = partial[group.first : group.first + len(group.chunks)]
        self.launch(kernel, group.chunks, group, chunks=group.chunks, partial=part, **arguments)

    def update(
        self, group: tables.Group, numbers: Tensor, keys: Tensor | None, REVERSED: bool = False
    ) -> None:
        """Write the group's p, m and v."""
        if self.s.layerwise == "pre":
            self.launch("pool", group.layers, group, layers=group.layers, numbers=numbers)
        given: dict[str, Any] = dict(chunks=group.chunks, numbers=numbers, keys=keys, REVERSED=REVERSED)
        self.launch("apply", group.chunks, group, **given)

    def launch(
        self,
        kernel: str,
        over: Tensor,
        group: tables.Group | None,
        options: Mapping[str, Any] = MappingProxyType({}),
        **arguments: Any,
    ) -> None:
        """One program for each row of `over`; the kernel takes those arguments that it names.

        options: the compiler's.
        """
        if len(over) == 0:
            return
        known = {**self.shared, **(_constants(group) if group else {}), **arguments}
        function = getattr(_kernels(), kernel)
        with _current(self.device):
            given = {name: known[name] for name in function.arg_names}
            function[(len(over),)](**given, num_warps=WARPS, **options)

    def table(self, rows: int, columns: int) -> Tensor:
        """Of float64, not filled."""
        return torch.empty(rows, columns, dtype=torch.float64, device=self.device)

    def keys(self) -> Tensor | None:
        """[L], of stochastic rounding."""
        return None if self.s.keys is None else self.row(self.s.keys, torch.int64)

    def numbers(self, coefficients: Coefficients, total: Any) -> Tensor:
        """[L, 8], the columns named in kernels.py."""
        s = self.s
        columns = (s.inv_bias2, s.eps_in_root, s.eps_out, s.step_size, s.decay_factor, *coefficients)
        rows = [self.row(x, torch.float64) for x in columns]
        mean = torch.zeros_like(rows[0])
        if total is not None and s.layerwise == "pre":
            mean = total / self.layout.wholes
        elif total is not None and s.layerwise == "post":
            (u, count), unmoved = total.unbind(1), 1 / (rows[1].sqrt() + rows[2])
            mean = torch.where(count == 0, unmoved, u / count.clamp(min=1))
        return torch.stack([*rows, mean], dim=1)

    def row(self, x: Any, dtype: torch.dtype) -> Tensor:
        """[L] on the device, of one number for all layers, one per layer, or a tensor of either."""
        n = len(self.layout.numels)
        if isinstance(x, Tensor):
            return x.to(self.device, dtype, non_blocking=True).expand(n)
        if isinstance(x, (int, float)):  # as_tensor would copy it from the host, which no capture allows
            return torch.full((n,), x, dtype=dtype, device=self.device)
        return tables.upload(x, self.device, dtype)


def _constants(group: tables.Group) -> dict[str, Any]:
    """What a kernel is compiled for; FLOAT is the type that it computes in."""
    language = _kernels().tl
    types = (*group.types, torch.float64 if torch.float64 in group.types else torch.float32)
    names = ("P_TYPE", "G_TYPE", "M_TYPE", "V_TYPE", "FLOAT")
    kept = {
        name: getattr(language, str(t).removeprefix("torch.")) for name, t in zip(names, types, strict=True)
    }
    return {**kept, "ALIGNED": group.aligned}


@cache
def _kernels() -> ModuleType:
    # Not at the top: importing triton takes long, and many machines do not have it.
    from . import kernels

    return kernels


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return nullcontext() if device.type == "cpu" else torch.get_device_module(device).device(device)


@cache
def _lacks(device: torch.device) -> str | None:
    if device.type == "cuda" and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < (7, 0):
            return f"the Triton backend needs compute capability 7.0 or newer, and {device} has {capability}"
    if device.type == "xpu" and not torch.xpu.get_device_properties(device).has_fp64:
        return f"the Triton backend adds up in float64, which {device} does not have"
    return None
