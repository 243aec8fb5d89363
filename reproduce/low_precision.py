"""Does training survive bfloat16 moments and parameters? Digits CNN over seeds, as a Markdown table.

    python reproduce/low_precision.py [--seeds 10] [--epochs 20] [--optimizers aida,ladam] [--lr 1e-4]

Runs of one seed share the initial model, the data order and the dropout, so differences are paired. "nearest"
is the control: the same types, rounded to the nearest in place of at random. eps is 1e-16, so that v is felt:
under a larger one it hardly is, and its precision hardly matters. At a small --lr steps are far below a
bfloat16's last place, and the control falls behind by far; by default each has the recipe's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from aida import create_optimizer
from aida.backends import rounding
from aida_bench.recipes.digits import DIGITS
from aida_bench.tasks import create_task


@dataclass(frozen=True)
class Precision:
    name: str
    arguments: dict[str, Any]
    nearest: bool = False
    parameters: torch.dtype = torch.float32


EPS = 1e-16
Result = dict[str, float]
MOMENTS = {"state_dtype": torch.bfloat16}
BOTH = {**MOMENTS, "stochastic_rounding": True}
PRECISIONS = [
    Precision("float32", {}),
    Precision("bfloat16 moments", MOMENTS),
    Precision("bfloat16 moments, nearest", MOMENTS, nearest=True),
    Precision("bfloat16 moments and parameters", BOTH, parameters=torch.bfloat16),
    Precision("bfloat16 moments and parameters, nearest", BOTH, nearest=True, parameters=torch.bfloat16),
]


@contextmanager
def rounded_to_nearest() -> Iterator[None]:
    """The control: every stochastic rounding becomes one to the nearest."""
    at_random = rounding.round_bfloat16
    rounding.round_bfloat16 = lambda x, bits: x.float().bfloat16()
    try:
        yield
    finally:
        rounding.round_bfloat16 = at_random


def train(
    task: Any, optimizer: str, precision: Precision, seed: int, epochs: int, lr: float | None = None
) -> Result:
    """The training loss of the whole training set and the test accuracy after the last epoch."""
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    model: nn.Module = task.build_model().to(precision.parameters)
    # In bfloat16 the model is fed bfloat16 and its outputs are read in float32.
    model.register_forward_pre_hook(lambda _, inputs: tuple(x.to(precision.parameters) for x in inputs))
    model.register_forward_hook(lambda _, inputs, output: output.float())
    settings = {
        **DIGITS[optimizer].settings,
        "eps": EPS,
        "foreach": True,
        "seed": seed,
        **precision.arguments,
    }
    if lr is not None:
        settings["lr"] = lr
    stepper = create_optimizer(optimizer, model, **settings)
    steps = task.batches_per_epoch()
    schedule = LambdaLR(stepper, lambda step: task.lr_factor(step, steps, epochs))
    with rounded_to_nearest() if precision.nearest else nullcontext():
        for _ in range(epochs):
            for batch in task.train_batches(order, "cpu"):
                stepper.zero_grad()
                task.loss(model, batch).backward()
                stepper.step()
                schedule.step()
    model.eval()
    with torch.no_grad():
        losses = {split: task.evaluate(model, split, "cpu") for split in ("train", "test")}
    return {"loss": losses["train"]["loss"], "accuracy": 100 * losses["test"]["accuracy"]}


def spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def row(optimizer: str, precision: Precision, runs: list[Result], base: list[Result]) -> str:
    differences = [run["accuracy"] - full["accuracy"] for run, full in zip(runs, base, strict=True)]
    cells = [
        optimizer,
        precision.name,
        spread([run["loss"] for run in runs], 4),
        spread([run["accuracy"] for run in runs], 2),
        "" if runs is base else spread(differences, 2),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--optimizers", default="aida,adabelief,ladam")
    parser.add_argument("--lr", type=float)
    asked = parser.parse_args()
    optimizers = asked.optimizers.split(",")
    if unknown := [name for name in optimizers if name not in DIGITS]:
        sys.exit(f"unknown optimizer {unknown[0]!r}: known are {', '.join(DIGITS)}")
    task = create_task("digits", model="cnn", batch_size=64)
    lr = asked.lr or "of the recipe"
    print(
        f"Digits CNN, {asked.epochs} epochs, {asked.seeds} seeds, lr {lr}, eps {EPS}; mean ± std. deviation."
    )
    print("The last column is the difference to float32, seed by seed.\n")
    print("| optimizer | kept in | training loss | test accuracy, % | difference, % |")
    print("| --- | --- | --- | --- | --- |")
    for optimizer in optimizers:
        base: list[Result] = []
        for precision in PRECISIONS:
            runs = [
                train(task, optimizer, precision, seed, asked.epochs, asked.lr) for seed in range(asked.seeds)
            ]
            base = base or runs
            print(row(optimizer, precision, runs, base), flush=True)


if __name__ == "__main__":
    main()
