"""Would Aida train from moments in 8 bits? Both are quantized after each step, in blocks; digits, an MLP.

python reproduce/int8_moments.py --steps 600 --seeds 2
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import mean
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import aida

BLOCK = 256
LOG = torch.logspace(-4, 0, 127)
LEVELS = torch.cat([-LOG.flip(0), torch.zeros(1), LOG])  # of a "log" moment: 255, four decades of either sign


def linear(x: Tensor, random: Callable[[Tensor], Tensor]) -> Tensor:
    """Of [-1, 1], in steps of 1/127."""
    return torch.floor(x * 127 + random(x)).clamp(-127, 127) / 127


def logarithmic(x: Tensor, random: Callable[[Tensor], Tensor]) -> Tensor:
    """Of [-1, 1], as LEVELS."""
    i = torch.bucketize(x, LEVELS).clamp(1, len(LEVELS) - 1)
    low, high = LEVELS[i - 1], LEVELS[i]
    return torch.where((x - low) / (high - low) + random(x) >= 1, high, low)


def root(x: Tensor, random: Callable[[Tensor], Tensor]) -> Tensor:
    """Of [0, 1]: the root in steps of 1/255; with random numbers the mean is x, not its root."""
    q = (x.sqrt() * 255).floor().clamp(0, 254)
    low, high = (q / 255) ** 2, ((q + 1) / 255) ** 2
    return torch.where((x - low) / (high - low) + random(x) >= 1, high, low)


def quantized(x: Tensor, form: Callable[..., Tensor], random: Callable[[Tensor], Tensor]) -> Tensor:
    """x as it would be read from 8 bits and its blocks' scales."""
    blocks = nn.functional.pad(x.flatten(), (0, -x.numel() % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-38)
    return (form(blocks / scale, random) * scale).flatten()[: x.numel()].view_as(x)


def run(
    m_form: Callable[..., Tensor] | None, stochastic: bool, seed: int, steps: int, eps: float
) -> tuple[float, ...]:
    """Training loss, test accuracy, and the mean of |error of m| / |m - g|."""
    torch.manual_seed(seed)
    batches, rounding = (torch.Generator().manual_seed(seed + k) for k in (0, 1000))

    def random(x: Tensor) -> Tensor:
        return torch.rand(x.shape, generator=rounding) if stochastic else torch.full_like(x, 0.5)

    digits: Any = load_digits()
    order = torch.randperm(len(digits.data), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(digits.data).float()[order] / 16, torch.tensor(digits.target)[order]
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )  # fmt: skip
    optimizer = aida.Aida(model.parameters(), eps=eps)
    errors = [0.0]
    for _ in range(steps):
        batch = torch.randint(0, 1400, (64,), generator=batches)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
        if m_form is None:
            continue
        for p, state in optimizer.state.items():
            m, v = state["exp_avg"], state["exp_avg_var"]
            kept = quantized(m, m_form, random)
            errors.append(float((kept - m).norm() / (m - p.grad).norm()))
            m.copy_(kept)
            v.copy_(quantized(v, root, random))
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(x[:1400]), y[:1400]).item()
        right = (model(x[1400:]).argmax(1) == y[1400:]).float().mean().item()
    return loss, right, mean(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--eps", type=float, default=1e-16)  # at 1e-8 it hides v
    asked = parser.parse_args()
    print(
        "| m | rounded | training loss | test accuracy, % | error of m to m - g |\n"
        "| --- | --- | --- | --- | --- |"
    )
    rows = [
        (None, False),
        *((form, at_random) for form in (linear, logarithmic) for at_random in (False, True)),
    ]
    for form, stochastic in rows:
        seen = [run(form, stochastic, seed, asked.steps, asked.eps) for seed in range(asked.seeds)]
        losses, rights, errors = zip(*seen, strict=True)
        how = "" if form is None else "at random" if stochastic else "to the nearest"
        print(
            f"| {form.__name__ if form else 'float32'} | {how} | {', '.join(f'{x:.4f}' for x in losses)} "
            f"| {', '.join(f'{100 * x:.2f}' for x in rights)} | {mean(errors):.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
