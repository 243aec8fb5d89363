"""The fused step on an accelerator, against torch's fused AdamW and against the measured copy bandwidth.

    python benchmarks/gpu.py [--models "GPT-2 small,ResNet34"] [--rounds 50] [--json FILE]
    python benchmarks/gpu.py --dry       small tensors, interpreted on the CPU: shows that it runs

Pairs of steps are interleaved and the ratio is the median over pairs. The bound of a step is its tensor
passes over memory, at the bandwidth of a large copy: 9 for Aida, 7 for AdamW, in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

DRY = {"two small tensors": [(7, 3), (5,)]}
Make = Callable[[list[Tensor]], Optimizer]


def candidates() -> dict[str, tuple[Make, float]]:
    """By name: the optimizer, and bytes moved per float32 parameter (a pooled v moves none)."""
    import aida

    half = torch.bfloat16
    return {
        "Aida": (lambda p: aida.Aida(p, fused=True), 36),
        "Aida, bfloat16 moments": (lambda p: aida.Aida(p, fused=True, state_dtype=half), 12 + 8 + 6),
        "AdaBelief": (lambda p: aida.AdaBelief(p, fused=True), 28),
        "AdamPlus": (lambda p: aida.AdamPlus(p, fused=True), 28),
        "LAdam": (lambda p: aida.LAdam(p, fused=True), 28),
        "LAida, post": (lambda p: aida.LAida(p, fused=True, layerwise="post"), 48),
    }


def parameters(shapes: list[tuple[int, ...]], device: str) -> list[Tensor]:
    made = [torch.randn(shape, device=device).requires_grad_() for shape in shapes]
    for p in made:
        p.grad = torch.randn_like(p) * 1e-3
    return made


def seconds(work: Callable[[], Any], device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    module = torch.get_device_module(device)
    start, end = (module.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    module.synchronize()
    return start.elapsed_time(end) / 1e3


def copy_bandwidth(device: str, mebibytes: int) -> float:
    """Bytes a second, read and written."""
    a = torch.ones(mebibytes * 2**18, device=device)
    b = torch.empty_like(a)
    times = [seconds(lambda: b.copy_(a), device) for _ in range(20)]
    return 2 * a.nbytes / statistics.median(times[5:])


def graphed(optimizer: Optimizer) -> Callable[[], Any]:
    """The step as a CUDA graph: what it costs without the host."""
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


def compare(
    shapes: list[tuple[int, ...]], make: Make, bytes_each: float, rounds: int, device: str
) -> dict[str, Any]:
    """Milliseconds, ratio to torch's fused AdamW with its quartiles, and seconds of pure traffic."""
    ours, theirs = make(parameters(shapes, device)), AdamW(parameters(shapes, device), fused=True)
    for _ in range(min(3, rounds - 1)):
        ours.step()
        theirs.step()
    pairs = [(seconds(ours.step, device), seconds(theirs.step, device)) for _ in range(rounds)]
    ratios = [a / b for a, b in pairs]
    result = {
        "ms": 1e3 * statistics.median(a for a, _ in pairs),
        "adamw_ms": 1e3 * statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "quartiles": statistics.quantiles(ratios, n=4)[::2] if rounds > 1 else None,
        "bytes": bytes_each * sum(map(prod, shapes)),
    }
    if device == "cuda":
        for group in ours.param_groups:
            group["capturable"] = True
        for p, state in ours.state.items():
            state["step"] = state["step"].to(p.device)
        replay = graphed(ours)
        result["graph_ms"] = 1e3 * statistics.median(seconds(replay, device) for _ in range(rounds))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="GPT-2 small,Transformer base,ResNet34,VGG11,200 small tensors")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dry", action="store_true")
    arguments = parser.parse_args()
    if arguments.dry:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
        from aida.backends import dispatch as choose
        from aida.backends import triton

        choose.FUSED["cpu"] = (triton, lambda p: None)
        device, models, arguments.rounds = "cpu", DRY, 1
    else:
        from aida_bench.bench.model_shapes import model_shapes

        if not torch.accelerator.is_available():
            print("There is no accelerator here; --dry shows that the benchmark runs.", file=sys.stderr)
            return 1
        device = torch.accelerator.current_accelerator().type
        models = {name: model_shapes(name) for name in arguments.models.split(",")}
    command = shlex.join(["python", *sys.argv])
    print(f"$ {command}\n")
    bandwidth = copy_bandwidth(device, 1 if arguments.dry else 1024)
    name = device if device == "cpu" else torch.get_device_module(device).get_device_name()
    print(f"{name}, torch {torch.__version__}, copies at {bandwidth / 1e9:.0f} GB/s\n")
    print("| model | optimizer | ms | of torch AdamW fused | of bandwidth | as a CUDA graph, ms |")
    print("|---|---|---:|---:|---:|---:|")
    rows = []
    for model, shapes in models.items():
        for optimizer, (make, bytes_each) in candidates().items():
            row = compare(shapes, make, bytes_each, arguments.rounds, device)
            row |= {
                "model": model,
                "optimizer": optimizer,
                "of_bandwidth": row["bytes"] / bandwidth / row["ms"] * 1e3,
            }
            rows.append(row)
            graph = f"{row['graph_ms']:.3f}" if "graph_ms" in row else ""
            print(
                f"| {model} | {optimizer} | {row['ms']:.3f} | {row['ratio']:.2f} "
                f"| {100 * row['of_bandwidth']:.0f} % | {graph} |"
            )
    if arguments.json:
        found = {"command": command, "device": name, "torch": torch.__version__,
                 "copy_bytes_per_second": bandwidth, "rows": rows}  # fmt: skip
        beside = arguments.json.with_suffix(".part")
        beside.write_text(json.dumps(found, indent=1))
        os.replace(beside, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
