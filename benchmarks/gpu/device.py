"""The device that is measured, or Triton's interpreter in its place, which shows that a case runs."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import triton
from torch import Tensor
from torch.optim import Optimizer

from aida_bench.bench.measure import peak_extra_bytes

Work = Callable[[], Any]
L2_BYTES = "AIDA_TRITON_L2_BYTES"


@dataclass(frozen=True)
class Device:
    type: str
    dry: bool

    @classmethod
    def find(cls, dry: bool) -> Device:
        if dry:
            _interpret()
            return cls("cpu", True)
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if found is None:
            raise SystemExit("there is no accelerator here; --dry shows that a part runs")
        return cls(found.type, False)

    @property
    def module(self) -> Any:
        return torch.get_device_module(self.type)

    def about(self) -> dict[str, Any]:
        """What the figures depend on."""
        about: dict[str, Any] = {
            "device": "Triton's interpreter" if self.dry else self.module.get_device_name(),
            "python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__,
            "cuda": torch.version.cuda, "hip": torch.version.hip,
        }  # fmt: skip
        if self.type == "cuda":
            properties = torch.cuda.get_device_properties(0)
            about |= {
                "memory_bytes": properties.total_memory,
                "L2_bytes": self.l2_bytes,
                "processors": properties.multi_processor_count,
            }
        return about

    def synchronize(self) -> None:
        if not self.dry:
            self.module.synchronize()

    def seconds(self, work: Work) -> float:
        """On the device's clock: from when it could begin until it has ended."""
        if self.dry:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        start, end = (self.module.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        self.module.synchronize()
        return start.elapsed_time(end) / 1e3

    @property
    def l2_bytes(self) -> int:
        """Of the cache that all processors share; 32 MiB where torch does not tell."""
        if self.dry:
            return 1024
        return getattr(self.module.get_device_properties(0), "L2_cache_size", 0) or 2**25

    @contextmanager
    def cache_blocks(self, of_l2: float) -> Iterator[None]:
        """Steps within are in blocks of layers that fill this fraction of the cache; 0: without blocks."""
        before = os.environ.get(L2_BYTES)
        os.environ[L2_BYTES] = str(int(of_l2 * self.l2_bytes))
        try:
            yield
        finally:
            del os.environ[L2_BYTES]
            if before is not None:
                os.environ[L2_BYTES] = before

    def copy_bandwidth(self) -> float:
        """Bytes a second, read and written, of a copy far larger than any cache."""
        a = torch.ones(2**18 if self.dry else 2**29, device=self.type)
        b = torch.empty_like(a)
        times = [self.seconds(lambda: b.copy_(a)) for _ in range(20)]
        return 2 * a.nbytes / median(times[5:])

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Whatever waits for the device raises; the interpreter has nothing to wait for."""
        if self.type != "cuda":
            yield
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @contextmanager
    def kept_busy(self, milliseconds: int = 300) -> Iterator[None]:
        """The device has work to do first; who waits for it within, has waited for that too, and raises."""
        if self.type != "cuda":
            yield
            return
        self.synchronize()
        torch.cuda._sleep(int(milliseconds * 1.5e6))  # cycles, of under 2 GHz
        begun = torch.cuda.current_stream().query()
        yield
        assert not begun, "the device had ended its work before anything was tried"
        assert not torch.cuda.current_stream().query(), "the host has waited for the device"
        self.synchronize()

    def graphed(self, optimizer: Optimizer) -> Work:
        """Steps as a CUDA graph, after three that warm up; the interpreter just steps."""
        if self.type != "cuda":
            for _ in range(3):
                optimizer.step()
            return optimizer.step
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            optimizer.step()
        return graph.replay

    def peak_extra_bytes(self, work: Work) -> int:
        return peak_extra_bytes(work, self.type)


def _interpret() -> None:
    """The Triton backend steps what lies on the CPU."""
    from aida.backends import dispatch
    from aida.backends import triton as backend

    dispatch.FUSED["cpu"] = (backend, lambda p: None)


def parameters(shapes: list[tuple[int, ...]], device: Device, gradients: Any = None) -> list[Tensor]:
    """With the gradients given, or some of their own."""
    made = [torch.randn(shape, device=device.type).mul_(0.02).requires_grad_() for shape in shapes]
    for p, g in zip(made, gradients or [None] * len(made), strict=True):
        p.grad = torch.randn_like(p) * 1e-3 if g is None else g
    return made
