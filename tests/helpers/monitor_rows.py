"""Made-up rows of a monitor: stepsizes of random second moments, measured as rows say they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import Any

import numpy as np

PER_OCTAVE = 64


def histogram(u: np.ndarray) -> dict[str, Any]:
    place = np.floor(np.log2(u) * PER_OCTAVE).astype(int)
    counts = np.bincount(place - place.min())
    return {"low": int(place.min()) / PER_OCTAVE, "per_octave": PER_OCTAVE, "counts": counts.tolist()}


def layer_row(u: np.ndarray, cap: float | None, **more: Any) -> dict[str, Any]:
    percentiles = zip(("p05", "p25", "p50", "p75", "p95"), np.percentile(u, (5, 25, 50, 75, 95)), strict=True)
    return {
        "kind": "stepsize",
        **more,
        "numel": u.size,
        "mean": float(u.mean()),
        "std": float(u.std()),
        "min": float(u.min()),
        "max": float(u.max()),
        **{name: float(value) for name, value in percentiles},
        "cap": cap,
        "capped": None if cap is None else float((u >= 0.99 * cap).mean()),
        "histogram": histogram(u),
    }


def run(
    layers: int = 3,
    times: Sequence[int] = (1, 2, 3),
    *,
    time: str = "epoch",
    eps: float | None = 1e-8,
    size: float = 1e-3,
    seed: int = 0,
    spread: bool = False,
) -> Iterator[dict[str, Any]]:
    """Rows whose gradients are of about `size`, more in the first layers and early; eps=None: no cap."""
    draw = np.random.default_rng(seed)
    cap = None if eps is None else sqrt(1e-3 / eps)
    for number, at in enumerate(times, 1):
        when = {"step": 100 * number, **({time: at} if time == "epoch" else {"step": at})}
        means = []
        for layer in range(1, layers + 1):
            root = size * np.exp(draw.normal(size=2000)) * (1 + 3 / layer) / sqrt(number)
            u = 1 / (root + 1e-8) if cap is None else 1 / np.sqrt(root**2 + cap**-2)
            row = layer_row(u, cap, **when, layer=layer, parameter=f"blocks.{layer}.weight")
            means.append(row["mean"])
            yield row | {
                "cos": float(np.tanh(draw.normal(0.3, 0.4))),
                **{
                    name: float(np.exp(draw.normal(0, 0.3)) / layer)
                    for name in ("g_norm", "m_norm", "p_norm")
                },
                "residual": None if cap is None else float(np.exp(draw.normal(-1, 0.3))),
                "update_ratio": float(1e-3 * np.exp(draw.normal(0, 0.2)) * layer),
            }
        if spread:
            found = {"mean": np.mean(means), "std": np.std(means), "min": min(means), "max": max(means)}
            found["ratio"] = found["std"] / found["mean"]
            yield {"kind": "spread", **when, "layers": layers, **{key: float(v) for key, v in found.items()}}
