"""How often the report's intervals hold the mean that they are of: docs/results/intervals.md.

python reproduce/intervals.py --trials 100000
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import fmean, stdev

import numpy as np
from scipy import stats

from aida_bench.report.statistics import interval

SEED = 0
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
DRAWS: dict[str, tuple[float, float, Draw]] = {
    # Each distribution's mean, its skewness and how it is drawn.
    "normal": (0.0, 0.0, lambda rng, size: rng.normal(size=size)),
    "gamma, shape 4": (4.0, 1.0, lambda rng, size: rng.gamma(4.0, size=size)),
    "log-normal, sigma 0.5": (np.exp(0.125), 1.75, lambda rng, size: rng.lognormal(0.0, 0.5, size)),
    "exponential": (1.0, 2.0, lambda rng, size: rng.exponential(size=size)),
    "exponential less half another": (
        0.5, 1.25, lambda rng, size: rng.exponential(size=size) - 0.5 * rng.exponential(size=size)
    ),
}  # fmt: skip
BEYOND: dict[str, tuple[float, float, Draw]] = {
    "log-normal, sigma 1": (np.exp(0.5), 6.18, lambda rng, size: rng.lognormal(0.0, 1.0, size)),
}
"""So skewed that no interval of few values is right."""


def coverage(name: str, n: int, trials: int, seed: int = SEED) -> dict[str, float]:
    """The share of `trials` samples of n values whose interval, and whose Student's alone, holds the mean.

    Also "width": the median ratio of the two intervals' widths.
    """
    mean, _, draw = {**DRAWS, **BEYOND}[name]
    quantile = float(stats.t.ppf(0.975, n - 1))
    held, student, widths = 0, 0, []
    for values in draw(np.random.default_rng(seed), (trials, n)).tolist():
        low, high = interval(values)
        held += low <= mean <= high
        half = quantile * stdev(values) / n**0.5
        student += abs(fmean(values) - mean) <= half
        widths.append((high - low) / (2 * half))
    return {"interval": held / trials, "student": student / trials, "width": float(np.median(widths))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20_000)
    trials = parser.parse_args().trials
    print("| differences | skewness | n | interval | Student's t alone | width, to Student's |")
    print("|---|---|---|---|---|---|")
    for name, (_, skewness, _) in {**DRAWS, **BEYOND}.items():
        for n in (2, 3, 4, 5, 10, 20):
            found = coverage(name, n, trials)
            shares = f"{100 * found['interval']:.1f} % | {100 * found['student']:.1f} %"
            print(f"| {name} | {skewness:.2g} | {n} | {shares} | {found['width']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
