"""Made-up run folders of every kind, and what a report of one must say, by pandas and scipy.

Nothing of aida_bench.report.terminal* is used here: only the recipes' settings and the words of the measures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from aida_bench.recipes import PRESETS

OPTIMIZERS = ("aida", "adamw", "sgd", "adabelief")
TASKS = {
    # The measure, its words, whether more is better, its scale and digits, and the recipe's task.
    "digits": ("accuracy", "accuracy, %", True, 100, 2),
    "lm": ("perplexity", "perplexity", False, 1, 2),
}
KINDS = ["whole"] * 10 + ["diverged", "unfinished", "emptied", "cut", "nan", "inf", "no rows", "untested"]


@dataclass
class Folder:
    """What was written: `runs` by pandas' row, and paths that must be named as left out."""

    path: Path
    runs: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def make(path: Path, seed: int) -> Folder:
    rng = np.random.default_rng(seed)
    made = Folder(path)
    for task in ["digits", "lm"][: 1 + int(rng.random() < 0.3)] if rng.random() < 0.8 else ["lm"]:
        ties = rng.random() < 0.4
        few = rng.random() < 0.2
        tested = rng.random() < 0.8
        for optimizer in rng.permutation(OPTIMIZERS)[: rng.integers(1, 5)]:
            for rate in [None, 1e30, 0.5][: 1 + int(rng.random() < 0.3) + int(rng.random() < 0.1)]:
                level = rng.uniform(0.3, 0.9)
                for number in rng.permutation(9)[: 1 if few else rng.integers(1, 10)]:
                    kind = str(rng.choice(KINDS))
                    epochs = _epochs(rng, task, kind, ties, tested, level)
                    _write(made, task, str(optimizer), rate, int(number), kind, epochs, rng)
    _neighbours(made, rng)
    return made


def _epochs(rng, task: str, kind: str, ties: bool, tested: bool, level: float) -> list[dict[str, float]]:
    measure = TASKS[task][0]
    count = {"unfinished": rng.integers(0, 4), "cut": rng.integers(1, 4), "diverged": rng.integers(0, 4)}
    rows = []
    for epoch in range(1, int(count.get(kind, 4)) + 1):
        values = rng.integers(3, 6, 2) / 7 if ties else level + 0.1 * rng.normal(size=2)
        if task == "lm":
            values = np.exp(5 * values) if not ties else 100 * values
        row = {"kind": "epoch", "epoch": epoch, "lr": 0.1, "train_loss": float(rng.exponential())}
        row[f"validation_{measure}"] = float(values[0])
        if tested and kind != "untested":
            row[f"test_{measure}"] = float(values[1])
        rows.append(row)
    if kind in ("nan", "inf"):
        rows[int(rng.integers(4))][f"validation_{measure}"] = float(kind)
    return rows


def _write(made: Folder, task, optimizer, rate, number, kind, epochs, rng) -> None:
    settings = dict(PRESETS[task]["small"].recipes[optimizer].settings)
    settings |= {} if rate is None else {"lr": rate}
    config = {"task": task, "model": "m", "preset": "small", "epochs": 4, "optimizer": optimizer}
    config |= {"settings": settings, "seed": number, "device": str(rng.choice(["cpu", "cuda"]))}
    name = optimizer if rate is None else f"{optimizer} lr={rate:g}"
    folder = made.path / task / name / f"seed-{number}"
    if rng.random() < 0.05:  # the run lies elsewhere, behind a link
        folder.parent.mkdir(parents=True, exist_ok=True)
        real = made.path.parent / f"{made.path.name}-elsewhere" / task / name / f"seed-{number}"
        real.mkdir(parents=True)
        folder.symlink_to(real, target_is_directory=True)
    folder.mkdir(parents=True, exist_ok=True)
    times = [
        {"epoch": row["epoch"], "seconds": float(rng.exponential()), "step_ms": float(rng.exponential())}
        for row in epochs
    ]
    done = {"diverged": "diverged", "unfinished": None}.get(kind, "finished")
    shown = [] if kind == "emptied" else epochs
    lines = "".join(json.dumps(row) + "\n" for row in shown)
    layers = _layers(optimizer, shown, rng)
    lines += "".join(json.dumps(row) + "\n" for row in layers)
    if kind == "diverged":
        lines += json.dumps({"kind": "diverged", "epoch": len(epochs) + 1, "lr": 0.1}) + "\n"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "versions.json").write_text(json.dumps({"torch": str(rng.choice(["2.6.0", "2.9.1"]))}))
    (folder / "timings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times))
    if kind != "no rows":
        (folder / "rows.jsonl").write_text(lines)
    if done:
        (folder / "done.json").write_text(json.dumps({"status": done}))
    if kind == "whole" and rng.random() < 0.03:
        broken = folder / str(rng.choice(["config.json", "done.json", "rows.jsonl"]))
        broken.write_text("{," + broken.read_text()[1:])
        made.left_out.append(str(folder.relative_to(made.path)))
        return
    epochs = [] if kind in ("emptied", "no rows") else epochs
    run = {"task": task, "optimizer": optimizer, "lr": settings["lr"], "rate": rate, "seed": number}
    made.runs.append(
        {
            **run,
            "done": done,
            "epochs": pd.DataFrame(epochs),
            "times": pd.DataFrame(times),
            "layers": layers if kind != "no rows" else [],
        }
    )


def _layers(optimizer: str, epochs: list[dict], rng) -> list[dict[str, Any]]:
    """Stepsizes such as foreign hands may have left them."""
    odd = [None, float("nan"), float("inf"), "text", [1]]
    rows = []
    for epoch in [row["epoch"] for row in epochs] if optimizer != "sgd" else []:
        for layer in (1, 2):
            row = {"kind": "stepsize", "epoch": epoch, "layer": layer, "parameter": f"{layer}.weight"}
            row |= {"numel": 10, "mean": float(rng.exponential()), "std": float(rng.exponential())}
            if rng.random() < 0.1:
                row[str(rng.choice(["mean", "std", "cap", "histogram"]))] = odd[rng.integers(len(odd))]
            rows.append(row)
    if rng.random() < 0.1:
        rows.append({"kind": "stepsize", "mean": 1.0})
    return rows


def _neighbours(made: Folder, rng) -> None:
    """Files of others, and copies."""
    strangers = ['{"model_type": "bert"}', "[1]", "{", '{"task": 1, "optimizer": {}, "seed": "x"}', ""]
    if rng.random() < 0.5:
        path = made.path / "stranger" / "config.json"
        path.parent.mkdir(parents=True)
        path.write_text(str(rng.choice(strangers)))
        made.left_out.append("stranger")
    if rng.random() < 0.3:
        (made.path / "z-link").symlink_to(made.path / made.runs[0]["task"] if made.runs else made.path)
        made.left_out.append("z-link")


def text(value: float, digits: int, sign: str = "") -> str:
    """A number as a report writes it."""
    shown = f"{value + 0.0:{sign}.{digits}f}"
    if abs(value) >= 1e5:
        return f"{value:{sign}.2e}"
    return f"{value:{sign}.1e}" if value != 0 and float(shown) == 0 else shown


def expected(made: Folder) -> dict[str, pd.DataFrame]:
    """By task, one row for each label, with the texts that every surface must show."""
    runs = pd.DataFrame(made.runs)
    return {task: _expected(task, own) for task, own in runs.groupby("task")} if len(runs) else {}


def layer_table(task: str, runs: list[dict[str, Any]], labels: dict[str, str]) -> pd.DataFrame:
    """Mean and deviation of each layer at its last epoch, over the runs that count."""
    rows = []
    for run in (pd.Series(run) for run in runs if run["task"] == task):
        label = labels[run["optimizer"], run["lr"]]
        rows += [{"label": label, "state": _state(run), "std": None, **row} for row in run["layers"]]
    table = pd.DataFrame(rows, columns=["label", "state", "layer", "epoch", "mean", "std"])
    table = table[table["layer"].notna()]
    out = {}
    for label, own in table.groupby("label"):
        for state in ("finished", "unfinished", "diverged"):
            if (own["state"] == state).any():
                own = own[own["state"] == state]
                break
        for layer, each in own.groupby("layer"):
            last = each[each["epoch"] == each["epoch"].max()]
            means = [_mean(last[name], places) for name, places in (("mean", 5), ("std", 4))]
            out[label, int(layer)] = [str(int(each["epoch"].max())), *means]
    return pd.DataFrame(out).T


def _mean(values: pd.Series, digits: int) -> str:
    numbers = [value for value in values if isinstance(value, float) and np.isfinite(value)]
    return f"{np.mean(numbers):.{digits}g}" if numbers else "–"


def _state(run: pd.Series) -> str:
    """Finished only with every epoch; diverged where a number is not finite."""
    rows = run["epochs"]
    lost = len(rows) > 0 and not np.isfinite(rows.select_dtypes("number")).fillna(0).to_numpy().all()
    if run["done"] == "diverged" or lost:
        return "diverged"
    return "finished" if run["done"] == "finished" and len(rows) == 4 else "unfinished"


def _expected(task: str, runs: pd.DataFrame) -> pd.DataFrame:
    measure, words, higher, scale, digits = TASKS[task]
    runs = runs.assign(state=[_state(run) for _, run in runs.iterrows()])
    several = runs.groupby("optimizer")["rate"].transform(lambda rate: rate.notna().any())
    rate = runs["lr"].map(lambda lr: np.format_float_positional(lr, trim="-") if lr < 1e6 else "1e30")
    runs["label"] = np.where(several, runs["optimizer"] + " lr=" + rate, runs["optimizer"])
    seen = [rows.loc[: _first_lost(rows)] for rows in runs["epochs"]]
    columns = set().union(*(rows.columns for rows in seen if len(rows)))
    chosen = f"validation_{measure}"
    scored = f"test_{measure}" if f"test_{measure}" in columns else chosen
    out = []
    for label, own in runs.groupby("label", sort=False):
        whole = own[own["state"] == "finished"]
        counted = whole if len(whole) else own[own["state"] == "unfinished"]
        scores: dict[str, dict[int, float]] = {"best": {}, "last": {}}
        best_epochs, losses, seconds, steps = [], [], [], []
        for _, run in counted.iterrows():
            rows, times = run["epochs"], run["times"]
            if not len(rows):
                continue
            losses.append(rows["train_loss"].iloc[-1])
            seconds.append(times["seconds"].iloc[: len(rows)].sum())
            steps += list(times["step_ms"].iloc[: len(rows)])
            if scored not in rows:
                continue
            at = rows[chosen].idxmax() if higher else rows[chosen].idxmin()
            scores["best"][run["seed"]] = rows.loc[at, scored]
            scores["last"][run["seed"]] = rows[scored].iloc[-1]
            best_epochs.append(rows.loc[at, "epoch"])
        row = {"label": label, "runs": len(own), "so_far": not len(whole) and len(counted) > 0,
               "finished": len(whole), "diverged": int((own["state"] == "diverged").sum()),
               "unfinished": int((own["state"] == "unfinished").sum()), "n": len(scores["best"])}  # fmt: skip
        for name, values, places in (("best_epoch", best_epochs, 1), ("train_loss", losses, 4),
                                     ("seconds", seconds, 1), ("step_ms", steps, 2)):  # fmt: skip
            row[name] = text(np.mean(values), places) if len(values) else "–"
        for kind in scores:
            found = pd.Series(scores[kind], dtype=float)
            row[f"{kind}_values"] = found
            row[f"{kind}_mean"] = found.mean() if len(whole) and len(found) else np.nan
            if len(found):
                std = found.std() if found.std() > 1e-12 * found.mean() else 0.0
                spread = f" ± {text(scale * std, digits)}" if len(found) > 1 else ""
                row[kind] = text(scale * found.mean(), digits) + spread
            else:
                lost = "diverged" if row["diverged"] == len(own) else "–" if len(whole) else "no epoch yet"
                row[kind] = lost
        out.append(row)
    table = pd.DataFrame(out)
    for kind in ("best", "last"):
        means = table[f"{kind}_mean"]
        rounded = means.map(lambda mean: float(f"{mean:.11e}"))
        table[f"{kind}_rank"] = rounded.rank(method="min", ascending=not higher)
        order = table.assign(place=rounded).sort_values(
            "place", ascending=not higher, kind="stable", na_position="last"
        )
        order = order[order["place"].notna()]
        for against in ("rival", "adamw"):
            table[f"{kind}_{against}"] = [
                _against(row, order, kind, against, higher, scale, digits) for _, row in table.iterrows()
            ]
    table["key"] = [
        tuple(each) for each in runs.groupby("label", sort=False)[["optimizer", "lr"]].first().values
    ]
    table.attrs = {"scored": scored, "words": words, "higher": higher, "measured": bool(columns)}
    return table


def _first_lost(rows: pd.DataFrame) -> int:
    if not len(rows):
        return 0
    bad = np.isinf(rows.select_dtypes("number")).any(axis=1) | rows.filter(like="validation").isna().any(
        axis=1
    )
    return int(np.argmax(bad)) - 1 if bad.any() else len(rows)


def _against(row, order, kind, against, higher, scale, digits) -> tuple[set[str], str, str]:
    """The texts that are right (equal rivals have equal claims), the sign and the verdict on zero."""
    if row["label"] not in set(order["label"]):
        return {"–"}, "", ""
    others = order[order["label"] != row["label"]]
    if against == "adamw":
        own = row["label"].split()[0] == "adamw"
        others = others[[not own and label.split()[0] == "adamw" for label in others["label"]]]
    others = others[others["place"] == others["place"].iloc[0]] if len(others) else others
    texts, sign, verdict = set(), "", ""
    for _, other in others.iterrows():
        mine, theirs = row[f"{kind}_values"].align(other[f"{kind}_values"], join="inner")
        difference = (mine - theirs).where(~np.isclose(mine, theirs, rtol=1e-12, atol=0), 0.0)
        n = len(difference)
        if not n:
            texts.add("–")
            continue
        said = text(scale * difference.mean(), digits, "+")
        if n > 1:
            low, high = hull(difference.to_numpy())
            said += f" [{text(scale * low, digits, '+')}, {text(scale * high, digits, '+')}]"
            if n >= 5 and (low > 0 or high < 0):
                sign = "better" if (difference.mean() > 0) == higher else "worse"
            verdict = "too few" if n < 5 else "excludes" if low > 0 or high < 0 else "includes"
        else:
            verdict = "cannot tell"
        rival = "" if against == "adamw" and other["label"] == "adamw" else f"{other['label']}, "
        texts.add(f"{said} ({rival}n = {n})")
    return texts or {"–"}, sign, verdict


def hull(values: np.ndarray) -> tuple[float, float]:
    """Student's interval and Hall's, each by scipy's own parts."""
    n, error = len(values), stats.sem(values)
    if error <= 1e-12 * abs(values.mean()):  # they are equal but for rounding
        return float(values.mean()), float(values.mean())
    low, high = stats.t.interval(0.95, n - 1, values.mean(), error)
    skew = float(stats.skew(values, bias=False)) if n > 2 else 0.0
    if abs(skew) < 1e-6:
        return low, high
    ends = []
    for t in stats.t.ppf([0.975, 0.025], n - 1):
        inner = 1 + skew * (t / n**0.5 - skew / (6 * n))
        ends.append(values.mean() - error * 3 * n**0.5 / skew * (np.cbrt(inner) - 1))
    return min(low, *ends), max(high, *ends)
