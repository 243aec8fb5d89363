"""Layers whose moments are codes of 8 bits, for tests of the backends."""

from __future__ import annotations

import torch

from aida.backends import blockwise, cpu, eager
from aida.backends.contract import Layers, Scalars

BLOCK = 256
M, V = torch.int8, torch.uint8
F32, F64 = torch.float32, torch.float64


def drawn(n, dtype, spread=4.0):
    """Numbers of very different sizes; of v, squares."""
    x = torch.randn(n, dtype=F64) * torch.exp(spread * torch.randn(n, dtype=F64))
    return (x if dtype == M else x * x).float()


def gap(codes, scales, steps=0):
    """From each element's code to the next larger one, or what lies so many steps on, in float64."""
    c = (codes.double() + steps).clamp(min=0)
    s = scales.double().repeat_interleave(BLOCK)[: codes.numel()].view(codes.shape)
    return s / 127 if codes.dtype == M else (2 * c + 1) * s / 255**2


def wider_gap(codes, scales):
    """Of the gaps to the next smaller and the next larger code; a v that moved may be far below code 1."""
    return torch.maximum(gap(codes, scales), gap(codes, scales, -1))


def layers_of(sizes, dtype=F32, layerwise=None):
    """Layers in the middle of training."""
    torch.manual_seed(1)
    p, g = ([torch.randn(n, dtype=F64).to(dtype) for n in sizes] for _ in range(2))
    m = [blockwise.encode(drawn(n, M, 1.0), M) for n in sizes]
    v = [blockwise.encode(drawn(n, V, 1.0), V) for n in sizes]
    if layerwise == "pre":
        v = [(torch.rand((), dtype=F64).to(torch.promote_types(dtype, F32)), None) for _ in sizes]
    return _layers(p, g, m, v)


def _layers(p, g, m, v):
    (m, m_scale), (v, v_scale) = ([list(x) for x in zip(*pairs, strict=True)] for pairs in (m, v))
    numel = [max(x.numel(), 1) for x in p]
    return on(
        Layers(p, g, m, v, numel, m_scale=m_scale, v_scale=[x for x in v_scale if x is not None]), "cpu"
    )


def on(x, device):
    """A copy of the layers there."""
    fields = ("p", "g", "m", "v", "m_scale", "v_scale")
    moved = {name: [t.to(device, copy=True) for t in getattr(x, name)] for name in fields}
    return Layers(**moved, numel=x.numel)


def scalars_of(n, layerwise=None, **changes):
    columns = [[1.5 + 0.1 * i for i in range(n)], [1e-5] * n, [1e-8] * n, [0.01 * (i + 1) for i in range(n)]]
    keys = [0x9E3779B9 * (i + 1) & 0xFFFFFFFF for i in range(n)]
    of_all = dict(b1=0.9, b2=0.99, weight_decay=0.1, decay_factor=0.999, sign=-1.0, keys=keys) | changes
    names = ("inv_bias2", "eps_in_root", "eps_out", "step_size")
    return Scalars(layerwise=layerwise, **of_all, **dict(zip(names, columns, strict=True)))


def as_numbers(x):
    """The same layers in float64, with m and v as what their codes stand for."""
    m = [blockwise.decode(*pair, F64) for pair in zip(x.m, x.m_scale, strict=True)]
    v = [blockwise.decode(*pair, F64) for pair in zip(x.v, x.v_scale, strict=True)] if x.v_scale else x.v
    p, g, v = ([t.to(F64, copy=True) for t in tensors] for tensors in (x.p, x.g, v))
    return Layers(p, g, m, v, x.numel)


def check_step(backend, sizes, dtype, layerwise, limit, device="cpu"):
    """Sums and parameters are eager's from what the codes stand for; new codes stand for eager's moments."""
    x, s = layers_of(sizes, dtype, layerwise), scalars_of(len(sizes), layerwise)
    numbers, x = as_numbers(x), on(x, device)

    def near(ours, exact, least, limit):
        assert ((torch.as_tensor(ours).cpu() - exact).abs() <= limit * least.abs()).all()

    exact = eager.gram(numbers, s)
    near(backend.gram(x, s), exact, exact[:, [0, 0, 2, 3]].clamp(min=1.0), limit)
    total = None
    if layerwise == "pre":
        total = torch.linspace(0.5, 5, len(sizes), dtype=F64)
    elif layerwise == "post":
        total = eager.stepsize_sum(numbers, (0.5, 0.8), s)
        near(backend.stepsize_sum(x, (0.5, 0.8), s), total, total, limit)
    given = total if total is None else total.numpy() if backend is cpu else total.to(device)
    backend.apply(x, (0.5, 0.8), given, s)
    eager.apply(numbers, (0.5, 0.8), total, s)
    for a, b in zip(x.p, numbers.p, strict=True):
        torch.testing.assert_close(a.cpu().double(), b, rtol=limit, atol=limit)
    stored = [(x.m, x.m_scale, numbers.m)] + [(x.v, x.v_scale, numbers.v)] * bool(x.v_scale)
    for codes, scales, of_eager in stored:
        for c, scale, b in zip(codes, scales, of_eager, strict=True):
            c, scale = c.cpu(), scale.cpu()
            off = (blockwise.decode(c, scale, F64) - b).abs()
            assert (off <= wider_gap(c, scale) * (1 + 1e-3)).all()


def exact_step(backend, sizes, dtype=F32, device="cpu", **changes):
    """From moments of 0 with b1 = b2 = 0.5 all that is stored is exact in float32: only the bits decide."""
    torch.manual_seed(2)
    m, v = ([(torch.zeros(n, dtype=kind), torch.zeros(-(-n // BLOCK))) for n in sizes] for kind in (M, V))
    g = [drawn(n, M, 1.0).to(dtype) for n in sizes]
    for i, bad in ((-1, float("inf")), (-2, float("nan"))):
        g[i][-1] = bad
    x = on(_layers([torch.zeros_like(x) for x in g], g, m, v), device)
    s = scalars_of(len(sizes), b1=0.5, b2=0.5, weight_decay=0.0, sign=1.0, **changes)
    backend.apply(x, (1.0, 1.0), None, s)
    return [t.cpu() for t in (*x.m, *x.v, *x.m_scale, *x.v_scale)]


def equal(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
