"""A small model with tensors to cut and to join, ways to do so, and the step's definition in float64."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import Parameter

from .members import coefficients, set_gradients

SHAPES = {
    "attention.qkv.weight": (12, 5),
    "attention.qkv.bias": (12,),
    "experts": (4, 3, 2),
    "embedding.weight": (10, 4),
    "norm.weight": (5,),
    "norm.bias": (5,),
    "scale": (),
}
NAMES = list(SHAPES)


def mixed(name, p):
    """Slices of rows, of single experts, of columns; a layer of four tensors; a tensor as it is."""
    if name == "attention.qkv.weight":
        return [slice(start, start + 4) for start in range(0, 12, 4)]
    if name == "experts":
        return [0, 1, (2,), slice(-1, None)]
    if name == "embedding.weight":
        return [(..., slice(0, 1)), np.s_[:6, 1:], np.s_[6:, 1:]]
    return None if name == "scale" else "vectors"


LAYERS = {  # what the functions mean: the layers, each of (name, index) in order
    "module": [
        [("attention.qkv.weight", ...), ("attention.qkv.bias", ...)],
        [("experts", ...), ("scale", ...)],
        [("embedding.weight", ...)],
        [("norm.weight", ...), ("norm.bias", ...)],
    ],
    mixed: [
        *[[("attention.qkv.weight", slice(i, i + 4))] for i in (0, 4, 8)],
        *[[("experts", slice(i, i + 1))] for i in range(4)],
        [("embedding.weight", np.s_[:, 0:1])],
        [("embedding.weight", np.s_[0:6, 1:4])],
        [("embedding.weight", np.s_[6:10, 1:4])],
        [(name, ...) for name in ("attention.qkv.bias", "norm.weight", "norm.bias")],
        [("scale", ...)],
    ],
}
CALLED = {  # how a monitor's rows name these layers
    "module": ["attention.qkv", "(root)", "embedding", "norm"],
    mixed: [
        *[f"attention.qkv.weight[{i}:{i + 4}]" for i in (0, 4, 8)],
        *[f"experts[{i}:{i + 1}]" for i in range(4)],
        *[f"embedding.weight[{at}]" for at in (":, 0:1", "0:6, 1:4", "6:10, 1:4")],
        "vectors",
        "scale",
    ],
}
SHARED = dict(lr=0.02, betas=(0.8, 0.99), eps=1e-6)


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    wide = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES.values()]
    return [Parameter(x.to(dtype)) for x in wide]


def groups_of(params):
    """As trainers have it: weights are decayed, vectors are not. So a module's tensors are in two groups."""
    named = [*zip(NAMES, params, strict=True)]
    return [
        {"params": [x for x in named if x[1].dim() > 1], "weight_decay": 0.1},
        {"params": [x for x in named if x[1].dim() < 2]},
    ]


class Twin:
    """The definition, in float64: a layer is one vector, of the elements of its parts that have a gradient.

    Where v is pooled, each part is filled with its copy of it.
    """

    def __init__(self, cls, own, params, layers, decay=0.1):
        self.cls, self.own, self.layers, self.decay = cls, own, layers, decay
        self.layerwise = own.get("layerwise", "pre" if cls.__name__.startswith("L") else None)
        self.p = {name: p.detach().double().clone() for name, p in zip(NAMES, params, strict=True)}
        self.m = {name: torch.zeros_like(p) for name, p in self.p.items()}
        self.v = {name: torch.zeros_like(p) for name, p in self.p.items()}
        self.t = dict.fromkeys(NAMES, 0)

    def step(self, grads):
        (b1, b2), eps, lr = SHARED["betas"], SHARED["eps"], SHARED["lr"]
        for name, g in grads.items():
            self.t[name] += g is not None
        for layer in self.layers:
            parts = [(name, at) for name, at in layer if grads[name] is not None]
            if not parts:
                continue
            decay = {name: self.decay if p.dim() > 1 else 0 for name, p in self.p.items()}
            g = [grads[n].double()[at] + decay[n] * self.p[n][at] for n, at in parts]
            m = [b1 * self.m[n][at] + (1 - b1) * x for (n, at), x in zip(parts, g, strict=True)]
            g_all, m_all = (torch.cat([x.reshape(-1) for x in xs]) for xs in (g, m))
            alpha, beta = coefficients(
                self.cls, self.own, *(a @ b for a, b in ((g_all, g_all), (g_all, m_all), (m_all, m_all)))
            )
            r = [beta * y - alpha * x for x, y in zip(g, m, strict=True)]
            pooled = (beta * m_all - alpha * g_all).square().mean()
            squares = [pooled if self.layerwise == "pre" else x.square() for x in r]
            v = [b2 * self.v[n][at] + (1 - b2) * x for (n, at), x in zip(parts, squares, strict=True)]
            roots = [
                (x / (1 - b2 ** self.t[n]) + eps / (1 - b2)).sqrt()
                for (n, _), x in zip(parts, v, strict=True)
            ]
            u = [1 / (root + (eps if self.cls.eps_outside else 0)) for root in roots]
            if self.layerwise == "post":
                moved = torch.cat([y[x != 0].reshape(-1) for x, y in zip(v, u, strict=True)])
                u = [moved.mean()] * len(u)
            for (n, at), m_, v_, u_ in zip(parts, m, v, u, strict=True):
                self.m[n][at], self.v[n][at] = m_, v_
                self.p[n][at] -= lr / (1 - b1 ** self.t[n]) * u_ * m_


def gradients(params, t):
    """The gradients of step t; at the third the biases and an embedding have none."""
    set_gradients(params, t)
    if t == 3:
        for name, p in zip(NAMES, params, strict=True):
            if name.endswith("bias") or name == "embedding.weight":
                p.grad = None
    return {name: p.grad for name, p in zip(NAMES, params, strict=True)}
