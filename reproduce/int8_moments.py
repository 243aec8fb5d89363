"""Does Aida train from moments in 8 bits as from float32? Whole runs of the study's tasks, paired by seed.

    python reproduce/int8_moments.py [--seeds 3] [--tasks mnist,lm,gpt] [--forms float32,int8-nearest]

After every float32 step m and v become what is read again from 8 bits: blocks of 256 elements, in the order
of the tensor's elements, each with one float32 scale, its largest magnitude; m in 255 linear levels, v in 256
levels with equally spaced roots. "nearest" rounds m and the root of v; "stochastic" rounds m and v without
bias. A killed command goes on where it was; rows of other runs that --rows holds are kept.
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
EVERY = 10
"""Steps from one measurement of the errors to the next."""
POINTS = {
    "mnist": {"lr": 2.175e-3, "eps": 1.283e-10, "weight_decay": 1.037e-4},
    "lm": {"lr": 5.096e-3, "eps": 1.43e-14, "weight_decay": 6.952e-3},
    "gpt": {"lr": 4.093e-4, "eps": 3.544e-16, "weight_decay": 8.882e-4},
}
"""Aida's best of the first 11 points of the study's tuning: docs/results/study/tier-1."""
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
    optimizer.param_groups[0]["errors"] = [0.0] * 5  # here a checkpoint keeps them
    seed = torch.initial_seed() if rounding == "stochastic" else None
    optimizer.register_step_post_hook(partial(store, seed=seed))
    return optimizer


@torch.no_grad()
def store(optimizer: torch.optim.Optimizer, *_: Any, seed: int | None) -> None:
    """Replace every m and v by what 8 bits keep; the random numbers depend on the seed and the step alone."""
    step = int(max(state["step"] for state in optimizer.state.values()))
    random: Random | None = None
    if seed is not None:
        random = partial(torch.rand, generator=Generator().manual_seed(1_000_003 * seed + step))
    sums = optimizer.param_groups[0]["errors"]
    for p in (p for group in optimizer.param_groups for p in group["params"] if p in optimizer.state):
        m, v = (optimizer.state[p][name] for name in ("exp_avg", "exp_avg_var"))
        new_m, new_v = kept(m, False, random), kept(v, True, random)
        if step % EVERY == 0 and p.grad is not None:
            found = errors(p.grad, m, v, new_m, new_v)
            sums[:] = [total + new for total, new in zip(sums, found, strict=True)]
        m.copy_(new_m)
        v.copy_(new_v)


def errors(g: Tensor, m: Tensor, v: Tensor, new_m: Tensor, new_v: Tensor) -> list[float]:
    """[1, |error of m| / |m - g|, |error of sqrt(v)| / |sqrt(v)|, elements with v > 0, those stored as 0]."""
    of_m = (new_m - m).norm() / (m - g).norm().clamp(min=TINY)
    of_v = (new_v.sqrt() - v.sqrt()).norm() / v.sqrt().norm().clamp(min=TINY)
    lost = ((new_v == 0) & (v > 0)).sum()
    return [1.0, of_m.item(), of_v.item(), float((v > 0).sum()), float(lost)]


def train(task: str, form: str, seed: int, out: Path) -> Row:
    """The row of one whole run, carried out where it is not finished."""
    preset, (optimizer, own) = PRESETS[task]["study"], FORMS[form]
    fixed = {"K": 2, "decoupled_weight_decay": True}
    settings = {**preset.recipes["aida"].settings, **fixed, **POINTS[task], **own}
    plan = Plan(
        task, "study", preset.models[0], [OptimizerSpec(form, optimizer, settings)], [seed],
        epochs=preset.epochs, batch_size=preset.batch_size, limit_batches=None,
        device="cpu", precision="32", threads=1,
    )  # fmt: skip
    (run,) = carry_out(plan, out / task, ExecutionOptions(workers=1, keep=True), Console())
    return row_of(run, task, form)


def row_of(run: Run, task: str, form: str) -> Row:
    record = of_result(f"{task}/{form}", read_folder(run.folder))
    measures = {} if record.diverged else record.epochs[-1]
    stepsizes = spreads(record)
    group = load_state(run.folder / "checkpoint.pt")["parts"][""]["optimizer"]["param_groups"][0]
    count, of_m, of_v, elements, lost = group.get("errors", [0.0] * 5)
    measured = {"m_error": of_m / count, "v_error": of_v / count, "v_lost": lost / elements} if count else {}
    return {
        "task": task, "form": form, "seed": run.config["seed"], "status": run.status,
        **{key: value for key, value in measures.items() if key.endswith("_loss")},
        "capped": stepsizes and stepsizes.capped, **measured, "settings": run.config["settings"],
        "cpu_seconds": round(record.cpu_seconds, 1), **record.versions,
    }  # fmt: skip


def losses_of(key: str, runs: list[Row], base: list[Row] | None) -> str:
    """A measure of each run, or its difference to `base`; nan where a run diverged."""
    if base is None:
        return ", ".join(f"{run.get(key, nan):.4f}" for run in runs)
    return ", ".join(
        f"{run.get(key, nan) - other.get(key, nan):+.4f}" for run, other in zip(runs, base, strict=True)
    )


def tables(rows: Iterable[Row]) -> list[str]:
    """Losses of float32 and the others' differences to it, by seed; then the errors, means over seeds."""
    found = {(row["task"], row["form"], row["seed"]): row for row in rows}
    losses, errors = [], []
    for task, form in product(POINTS, FORMS):
        seeds = sorted(seed for *pair, seed in found if pair == [task, form])
        if not seeds:
            continue
        runs = [found[task, form, seed] for seed in seeds]
        base = None if form == "float32" else [found[task, "float32", seed] for seed in seeds]
        cells = [losses_of(key, runs, base) for key in ("train_loss", "validation_loss")]
        capped = fmean(run["capped"] or 0.0 for run in runs)
        losses.append([task, form, *cells, f"{100 * capped:.0f} %"])
        if all("m_error" in run for run in runs):
            means = [fmean(run[key] for run in runs) for key in ("m_error", "v_error", "v_lost")]
            errors.append([task, form, *(f"{100 * mean:.2f} %" for mean in means)])
    heads = (
        ["task", "moments", "training loss", "validation loss", "at the cap"],
        ["task", "moments", "error of m to m - g", "error of sqrt(v)", "v > 0 stored as 0"],
    )
    return [
        f"| {' | '.join(cells)} |"
        for head, body in zip(heads, (losses, errors), strict=True)
        for cells in (head, ["---"] * len(head), *body)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", default=",".join(POINTS))
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--out", type=Path, default=Path("runs/int8"))
    parser.add_argument("--rows", type=Path, default=Path("docs/results/int8/rows.jsonl"))
    asked = parser.parse_args()
    rows = {(row["task"], row["form"], row["seed"]): row for row in read_json_lines(asked.rows)}
    # Seeds outermost, so that all forms stand equally wherever it is stopped.
    for seed, task, form in product(range(asked.seeds), asked.tasks.split(","), asked.forms.split(",")):
        rows[task, form, seed] = train(task, form, seed, asked.out)
        write_text(asked.rows, to_json_lines(rows.values()))
    print("\n".join(tables(rows.values())))


if __name__ == "__main__":
    main()
