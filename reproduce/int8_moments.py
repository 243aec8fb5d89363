"""Does Aida train from moments in 8 bits as from float32? Whole runs of the study's tasks, paired by seed.

    python reproduce/int8_moments.py [--seeds 3] [--tasks mnist,lm,gpt] [--forms float32,int8-nearest]

After every float32 step m and v become what is read again from 8 bits: blocks of 256 elements, in the order
of the tensor's elements, each with one float32 scale, its largest magnitude; m in 255 linear levels, v in 256
levels with equally spaced roots. "nearest" rounds m and the root of v; "stochastic" rounds m and v without
bias. A killed command goes on where it was, seed after seed; rows of other runs that --rows holds are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from torch import Generator, Tensor, nn

import aida
from aida_bench.execution.dispatch import carry_out
from aida_bench.execution.plan import ExecutionOptions, OptimizerSpec, Plan
from aida_bench.recipes import PRESETS
from aida_bench.report.read_rows import read_folder
from aida_bench.storage.files import Row, load_state, read_json_lines, to_json_lines, write_text
from aida_bench.storage.run import Run
from aida_bench.study.records import of_result
from aida_bench.study.stepsizes import spreads

BLOCK = 256
TINY = torch.finfo(torch.float32).tiny
RUNS = Path("runs/int8")
EVERY = 10  # steps from one measurement of the errors to the next
ERRORS = ("m_error", "v_error", "v_bias", "v_lost")
POINTS = {
    "mnist": {"lr": 2.175e-3, "eps": 1.283e-10, "weight_decay": 1.037e-4},
    "lm": {"lr": 5.096e-3, "eps": 1.43e-14, "weight_decay": 6.952e-3},
    "gpt": {"lr": 4.093e-4, "eps": 3.544e-16, "weight_decay": 8.882e-4},
}
"""Aida's best of the first 11 points of the study's tuning: docs/results/study/tier-1."""
FIXED = {"K": 2, "decoupled_weight_decay": True}
FORMS: dict[str, tuple[str, Row]] = {
    "float32": ("aida", {}),
    "int8-nearest": ("int8_moments:int8_aida", {"rounding": "nearest"}),
    "int8-stochastic": ("int8_moments:int8_aida", {"rounding": "stochastic"}),
    "bfloat16": ("aida", {"state_dtype": "bfloat16"}),
}

Random = Callable[[torch.Size], Tensor]  # numbers in [0, 1)


def encode(x: Tensor, root: bool, random: Random | None = None) -> tuple[Tensor, Tensor]:
    """Codes [blocks, 256] and scales [blocks, 1] of x; int8, or uint8 with `root`, for x >= 0."""
    blocks = nn.functional.pad(x.flatten(), (0, -x.numel() % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1, keepdim=True).clamp(min=TINY)
    exact = (blocks / scales).sqrt() * 255 if root else blocks / scales * 127
    if random is None:
        codes = exact.round()
    else:
        low = exact.floor()
        # The mean of the two levels is then x, which for v are squares of codes.
        above = (exact.square() - low.square()) / (2 * low + 1) if root else exact - low
        codes = low + (random(exact.shape) < above)
    return codes.to(torch.uint8 if root else torch.int8), scales


def decode(codes: Tensor, scales: Tensor) -> Tensor:
    """The padded elements [blocks * 256] that codes and scales stand for."""
    units = (codes / 255).square() if codes.dtype == torch.uint8 else codes / 127
    return (units * scales).flatten()


def kept(x: Tensor, root: bool, random: Random | None = None) -> Tensor:
    """x as it is read again."""
    return decode(*encode(x, root, random))[: x.numel()].view_as(x)


def int8_aida(params: Any, *, rounding: str, **settings: Any) -> aida.Aida:
    """Aida whose moments are stored in 8 bits after each step."""
    optimizer = aida.Aida(params, **settings)
    for group in optimizer.param_groups:  # off: from what float32 would hold after the same g and r
        group["off"] = [[torch.zeros_like(p.detach()) for _ in "mv"] for p in group["params"]]
        group["errors"] = [0.0] * 6
    seed = torch.initial_seed() if rounding == "stochastic" else None
    optimizer.register_step_post_hook(partial(store, seed=seed))
    return optimizer


@torch.no_grad()
def store(optimizer: torch.optim.Optimizer, *_: Any, seed: int | None) -> None:
    """Replace every m and v by what 8 bits keep; random numbers depend on the seed and the step alone."""
    step = int(max(state["step"] for state in optimizer.state.values()))
    generator = Generator().manual_seed(1_000_003 * (seed or 0) + step)
    random = None if seed is None else partial(torch.rand, generator=generator)
    for group in optimizer.param_groups:
        for p, off in zip(group["params"], group["off"], strict=True):
            if p.grad is None:
                continue
            moments = [optimizer.state[p][name] for name in ("exp_avg", "exp_avg_var")]
            for x, b, e, root in zip(moments, group["betas"], off, (False, True), strict=True):
                new = kept(x, root, random)
                e.mul_(b).add_(new - x)
                x.copy_(new)
            if step % EVERY == 0:
                found = errors(p.grad, *moments, *off)
                group["errors"][:] = map(sum, zip(group["errors"], found, strict=True))


def errors(g: Tensor, m: Tensor, v: Tensor, off_m: Tensor, off_v: Tensor) -> list[float]:
    """[1, |error of m| / |m - g|, |error of sqrt(v)| / |sqrt(v)|, mean sqrt(v) / that of float32 - 1,
    elements with v > 0 in float32, those stored as 0]."""
    of_m = off_m.norm() / (m - off_m - g).norm().clamp(min=TINY)
    exact, root = (v - off_v).clamp(min=0), v.sqrt()
    of_v = (root - exact.sqrt()).norm() / exact.sqrt().norm().clamp(min=TINY)
    bias = root.sum() / exact.sqrt().sum().clamp(min=TINY) - 1
    lost = ((v == 0) & (exact > 0)).sum()
    return [1.0, of_m.item(), of_v.item(), bias.item(), float((exact > 0).sum()), float(lost)]


def train(task: str, form: str, seed: int) -> Row:
    """The row of one whole run, carried out where it is not finished."""
    preset, (optimizer, own) = PRESETS[task]["study"], FORMS[form]
    settings = {**preset.recipes["aida"].settings, **FIXED, **POINTS[task], **own}
    plan = Plan(
        task, "study", preset.models[0], [OptimizerSpec(form, optimizer, settings)], [seed],
        preset.epochs, preset.batch_size, limit_batches=None, device="cpu", precision="32", threads=1,
    )  # fmt: skip
    (run,) = carry_out(plan, RUNS / task, ExecutionOptions(workers=1, keep=True), Console())
    return row_of(run, task, form)


def row_of(run: Run, task: str, form: str) -> Row:
    record = of_result(f"{task}/{form}", read_folder(run.folder))
    losses = {} if record.diverged else {k: v for k, v in record.epochs[-1].items() if k.endswith("_loss")}
    groups = load_state(run.folder / "checkpoint.pt")["parts"][""]["optimizer"]["param_groups"]
    sums = [group["errors"] for group in groups if "off" in group]
    errors = {}
    if sums:
        count, *of_layers, elements, lost = map(sum, zip(*sums, strict=True))
        errors = dict(zip(ERRORS, (*(x / count for x in of_layers), lost / elements), strict=True))
    return {
        "task": task, "form": form, "seed": run.config["seed"], "status": record.status,
        **losses, "capped": getattr(spreads(record), "capped", None), **errors,
        "settings": run.config["settings"], "cpu_seconds": round(record.cpu_seconds, 1), **record.versions,
    }  # fmt: skip


def losses_of(key: str, runs: list[Row], base: list[Row] | None) -> str:
    """A measure of each run, or its difference to `base`; nan where a run diverged."""
    mine, theirs = ([run.get(key, nan) for run in each] for each in (runs, base or runs))
    differences = [f"{x - y:+.4f}" for x, y in zip(mine, theirs, strict=True)]
    return ", ".join(differences if base else [f"{x:.4f}" for x in mine])


def tables(rows: Iterable[Row]) -> list[str]:
    """Losses of float32 and the others' differences to it, by seed; then the errors, means over seeds."""
    found = {(row["task"], row["form"], row["seed"]): row for row in rows}
    losses = ["task | moments | training loss | validation loss | at the cap", "--- | " * 4 + "---"]
    errors = ["task | moments | error of m to m - g | error of sqrt(v) | its bias | v > 0 stored as 0"]
    errors.append("--- | " * 5 + "---")
    for task, form in product(POINTS, FORMS):
        seeds = sorted(seed for *pair, seed in found if pair == [task, form])
        runs = [found[task, form, seed] for seed in seeds]
        base = None if form == "float32" else [found.get((task, "float32", seed), {}) for seed in seeds]
        if runs:
            cells = [losses_of(key, runs, base) for key in ("train_loss", "validation_loss")]
            capped = fmean(run["capped"] or 0.0 for run in runs)
            losses.append(" | ".join([task, form, *cells, f"{100 * capped:.0f} %"]))
        if measured := [run for run in runs if "m_error" in run]:
            means = [fmean(run[key] for run in measured) for key in ERRORS]
            errors.append(" | ".join([task, form, *(f"{100 * mean:.2f} %" for mean in means)]))
    return [f"| {line} |" if line else "" for line in (*losses, "", *errors)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", default=",".join(POINTS))
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--rows", type=Path, default=Path("docs/results/int8/rows.jsonl"))
    asked = parser.parse_args()
    rows = {(row["task"], row["form"], row["seed"]): row for row in read_json_lines(asked.rows)}
    for seed in range(asked.seeds):
        for task, form in product(asked.tasks.split(","), asked.forms.split(",")):
            rows[task, form, seed] = train(task, form, seed)
            write_text(asked.rows, to_json_lines(rows.values()))
    print("\n".join(tables(rows.values())))


if __name__ == "__main__":
    main()
