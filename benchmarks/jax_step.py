"""Whole compiled steps of members against optax.adamw and optax.adabelief, on the shapes of real models:

    python benchmarks/jax_step.py [--models vgg11,gpt2-small] [--rounds 15] [--out FILE]

A step is update and apply_updates under jit with donated buffers. In every round each optimizer takes one
step, in a random order, with parameters and a state of its own; a ratio is the median of the rounds' own
ratios, so that what else the machine does falls on all: [median, quartiles, ratio of the fastest steps].
`--fusions` shows what XLA makes of a step instead: fusions, and traffic in passes over the parameters.
"""

import argparse
import json
import os
import platform
import random
import re
import time
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import jax
import jax.numpy as jnp
import numpy as np
import optax

import aida_jax
from aida_bench.bench.model_shapes import MODELS

OPTIMIZERS = {
    "optax.adamw": optax.adamw,
    "optax.adabelief": optax.adabelief,
    "aida": aida_jax.aida,
    "adabelief": aida_jax.adabelief,
    "adam_plus": aida_jax.adam_plus,
    "ladam": aida_jax.ladam,
    "laida": aida_jax.laida,
}


def arrays(shapes, seed):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(0.02 * rng.standard_normal(shape, np.float32)) for shape in shapes]


def compiled_step(optimizer):
    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def timed(model, rounds):
    shapes = MODELS[model][0]()
    grads = arrays(shapes, 1)
    steps, held = {}, {}
    for name, make in OPTIMIZERS.items():
        optimizer, params = make(1e-3), arrays(shapes, 0)
        steps[name], held[name] = compiled_step(optimizer), (params, optimizer.init(params))
        held[name] = jax.block_until_ready(steps[name](*held[name], grads))
    seconds: dict[str, list[float]] = {name: [] for name in OPTIMIZERS}
    order = [*OPTIMIZERS]
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            start = time.perf_counter()
            held[name] = jax.block_until_ready(steps[name](*held[name], grads))
            seconds[name].append(time.perf_counter() - start)
    for name, own in seconds.items():
        row = {
            "model": model,
            "optimizer": name,
            "ms": round(1e3 * median(own), 3),
            "best_ms": round(1e3 * min(own), 3),
        }
        for peer in ("optax.adamw", "optax.adabelief"):
            ratios = [a / b for a, b in zip(own, seconds[peer], strict=True)]
            low, middle, high = quantiles(ratios, n=4)
            row[peer] = [round(x, 3) for x in (middle, low, high, min(own) / min(seconds[peer]))]
        yield row


def fusions(model):
    shapes = MODELS[model][0]()
    params = arrays(shapes, 0)
    for name, make in OPTIMIZERS.items():
        optimizer = make(1e-3)
        program = compiled_step(optimizer).lower(params, optimizer.init(params), params).compile()
        entry = program.as_text().split("ENTRY ", 1)[1]
        kinds = Counter(
            re.findall(r"= [^=]*? (fusion|reduce|dot|convolution|copy|call|custom-call)\(", entry)
        )
        cost = program.cost_analysis()
        cost = cost[0] if isinstance(cost, list) else cost
        size = sum(x.size for x in params) * 4
        print(f"{name}: {dict(kinds)}; {cost['bytes accessed'] / size:.1f} passes over the parameters")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="small-tensors,vgg11,resnet34")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--fusions", action="store_true")
    given = parser.parse_args()
    rows = []
    for model in given.models.split(","):
        if given.fusions:
            fusions(model)
            continue
        for row in timed(model, given.rounds):
            rows.append(row)
            print(json.dumps(row), flush=True)
    if given.out:
        about = {"jax": jax.__version__, "optax": optax.__version__, "device": str(jax.devices()[0]),
                 "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                 "load": os.getloadavg(), "rounds": given.rounds}  # fmt: skip
        given.out.write_text(json.dumps({"machine": about, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
