"""The one table of members and settings that the tests run over, and the small things they share."""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

import aida
from aida import family

OWN: dict[type, list[dict[str, Any]]] = {
    aida.AdamPlus: [{}],
    aida.AdaBelief: [{}],
    aida.LAdam: [{}, {"layerwise": "post"}],
    aida.LAdaBelief: [{}, {"layerwise": "post"}],
    aida.Aida: [{}, {"K": 0}, {"K": 1}, {"K": 3, "xi": 1e-6}],
    aida.LAida: [{}, {"layerwise": "post", "K": 3}],
}
SHARED: list[dict[str, Any]] = [
    {"lr": 0.02, "betas": (0.8, 0.99), "eps": 1e-6},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled_weight_decay": True},
    {"maximize": True, "weight_decay": 0.1},
    {"rectify": True, "betas": (0.9, 0.9)},
    {"capturable": True},
]
MEMBERS = list(OWN)

# Every own setting with the defaults, and every shared setting with a member's first own one.
CASES = [(c, own) for c, settings in OWN.items() for own in settings]
CASES += [(c, {**settings[0], **shared}) for c, settings in OWN.items() for shared in SHARED]


def name(case: tuple[type, dict[str, Any]]) -> str:
    cls, kwargs = case
    return "-".join([cls.__name__, *(f"{k}={v}" for k, v in kwargs.items())])


def coefficients(cls: Any, own: dict[str, Any], gg: Any, gm: Any, mm: Any) -> tuple[Any, Any]:
    """(alpha, beta) of one layer: the projections written out again, any other rule by itself."""
    if cls.rule is family.projection:
        alpha = beta = 1.0
        for _ in range(own.get("K", 2)):
            c, xi = alpha * beta * gm, own.get("xi", 1e-20)
            alpha, beta = alpha * c / (alpha**2 * gg + xi), beta * c / (beta**2 * mm + xi)
        return alpha, beta
    if isinstance(cls.rule, tuple):
        return cls.rule
    values = dict(gg=gg, gm=gm, mm=mm, dd=gg - 2 * gm + mm) | {**cls.own} | own
    return cls.rule(**{name: values[name] for name in inspect.signature(cls.rule).parameters})


def parameters(
    shapes: Iterable[Sequence[int]] = ((4, 3), (5,), ()), dtype: torch.dtype = torch.float32
) -> list[Parameter]:
    """Parameters that are the same at every call with the same arguments."""
    generator = torch.Generator().manual_seed(7)
    wide = [torch.randn(tuple(shape), generator=generator, dtype=torch.float64) for shape in shapes]
    return [Parameter(w.to(dtype)) for w in wide]


def set_gradients(params: Iterable[Tensor], t: int, scale: float = 1.0) -> None:
    """The gradients of step t: normal numbers that depend on t and on the parameter's place alone."""
    for i, p in enumerate(params):
        generator = torch.Generator().manual_seed(1000 * t + i)
        dtype = torch.complex128 if p.is_complex() else torch.float64
        p.grad = (scale * torch.randn(p.shape, generator=generator, dtype=dtype)).to(p.dtype)


def train(optimizer: torch.optim.Optimizer, steps: Iterable[int], scale: float = 1.0) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for t in steps:
        set_gradients(params, t, scale)
        optimizer.step()


def snapshot(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Copies of every parameter and its state, in order."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = [x for p in params for x in (p, *(v for _, v in sorted(optimizer.state.get(p, {}).items())))]
    return [x.detach().clone() for x in tensors]


def assert_bitwise(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


def assert_near(a: list[Tensor], b: list[Tensor], limit: float = 1e-12) -> None:
    """Within `limit` of the largest element of each tensor of b."""
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.shape == y.shape
        if y.numel():
            worst = (x.to(y.dtype) - y).abs().max().item()
            assert worst <= limit * y.abs().max().item(), f"{worst:.1e} apart, of {y.abs().max().item():.1e}"


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
