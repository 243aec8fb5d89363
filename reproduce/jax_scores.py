"""The examples of examples/jax trained on both sides: python reproduce/jax_scores.py [--seeds 5] [--out FILE]

The same initial weights and batches, so that the sides differ by rounding: accuracy on 540 images of digits,
and nats a byte of the GPT.
It needs both distributions, torch, flax and scikit-learn.
"""

import argparse
import importlib.util
import json
from pathlib import Path
from statistics import mean, stdev

import jax
import numpy as np
import torch
from torch.nn.functional import cross_entropy

import aida
from aida_bench.models.gpt import Gpt

torch.set_num_threads(1)
EXAMPLES = Path(__file__).parents[1] / "examples" / "jax"


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


digits, gpt = example("digits"), example("gpt")


def torch_digits(seed, epochs=30):
    (images, labels), (test_images, test_labels) = [map(torch.tensor, part) for part in digits.data()]
    layers = [torch.nn.Linear(64, 64), torch.nn.Linear(64, 10)]
    with torch.no_grad():
        for layer, given in zip(layers, digits.initial(seed), strict=True):
            layer.weight.copy_(torch.tensor(np.array(given["kernel"])).T)
            layer.bias.zero_()
    model = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])
    optimizer = aida.Aida(model.parameters(), lr=1e-3)
    for epoch in range(epochs):
        for index in digits.batches((seed, epoch), len(labels)):
            optimizer.zero_grad()
            cross_entropy(model(images[index]), labels[index].long()).backward()
            optimizer.step()
    return (model(test_images).argmax(1) == test_labels).float().mean().item()


def torch_model(seed):
    torch.manual_seed(seed)
    sizes = dict(context=gpt.CONTEXT, layers=gpt.LAYERS, dim=gpt.DIM, heads=gpt.HEADS, dropout=0.0)
    return Gpt(128, **sizes)


def to_tree(model):
    """Its parameters as those of the example in flax."""
    array = lambda x: jax.numpy.asarray(x.detach().numpy())  # noqa: E731
    norm = lambda x: {"scale": array(x.weight), "bias": array(x.bias)}  # noqa: E731
    linear = lambda x: {"kernel": array(x.weight.T), "bias": array(x.bias)}  # noqa: E731
    embedding = lambda x: {"embedding": array(x.weight)}  # noqa: E731
    blocks = {
        f"block{i}": {
            "first": norm(block.attention_norm),
            "second": norm(block.mlp_norm),
            "qkv": linear(block.query_key_value),
            **{name: linear(getattr(block, name)) for name in ("out", "up", "down")},
        }
        for i, block in enumerate(model.blocks)
    }
    whole = {
        "tokens": embedding(model.tokens),
        "places": embedding(model.positions),
        "norm": norm(model.norm),
    }
    return {**blocks, **whole}


def jax_gpt(seed):
    return gpt.train(seed, params=to_tree(torch_model(seed)))


def torch_gpt(seed, steps=300):
    model, losses = torch_model(seed), []
    decay = dict(weight_decay=0.01, decoupled_weight_decay=True)
    optimizer = aida.Aida(model.parameters(), lr=3e-3, **decay)
    schedule = gpt.optax.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 10, steps)
    rates = np.asarray(jax.vmap(schedule)(np.arange(steps)))
    for t in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = float(rates[t - 1])
        x, y = (torch.tensor(part).long() for part in gpt.batch(seed, t))
        optimizer.zero_grad()
        loss = cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses[-20:]))


SIDES = {
    "digits, JAX": digits.train,
    "digits, torch": torch_digits,
    "GPT, JAX": jax_gpt,
    "GPT, torch": torch_gpt,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    scores = {name: [] for name in SIDES}
    for seed in range(given.seeds):
        for name, train in SIDES.items():
            scores[name].append(train(seed))
            print(f"{name}, seed {seed}: {scores[name][-1]:.4f}", flush=True)
    for name, found in scores.items():
        print(f"{name}: {mean(found):.4f} ± {stdev(found) if len(found) > 1 else 0:.4f}")
    if given.out:
        about = {"jax": jax.__version__, "torch": torch.__version__}
        given.out.write_text(json.dumps({"versions": about, "scores": scores}, indent=1) + "\n")


if __name__ == "__main__":
    main()
