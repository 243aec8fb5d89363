"""Steps with gradients that explode, are infinite or zero; what every backend must do with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

import aida
from helpers.members import OWN

MAGNITUDES = (1e18, 4e18, 1e20, 1e30, 1e38)
LR = 1e-3
SHAPES: tuple[tuple[int, ...], ...] = ((7, 9), (3,), ())
CASES: list[tuple[type, dict[str, Any]]] = [(c, own) for c, settings in OWN.items() for own in settings]
CASES += [(aida.Aida, {"K": 8}), (aida.LAida, {"K": 8})]
FEW: list[tuple[type, dict[str, Any]]] = [(c, settings[-1]) for c, settings in OWN.items()]
FEW += [(aida.Aida, {}), (aida.LAdam, {})]
OPTIONS: list[dict[str, Any]] = [
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled_weight_decay": True},
    {"maximize": True},
    {"rectify": True},
    {"state_dtype": torch.bfloat16},
]


def gradient(p: Tensor, t: int) -> Tensor:
    """Of magnitudes between 0.5 and 1, so that a factor of 1e38 does not make infinity."""
    generator = torch.Generator().manual_seed(100 + t)
    uniform = torch.rand(p.shape, generator=generator)
    return (torch.where(uniform < 0.5, -1, 1) * (0.5 + (2 * uniform) % 1 / 2)).to(p.dtype)


def parameters(dtype: torch.dtype, device: str = "cpu") -> list[Parameter]:
    return [Parameter(torch.ones(shape, dtype=dtype, device=device)) for shape in SHAPES]


def exploded(
    cls: Any,
    worst: float,
    *,
    whole: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    steps: int = 6,
    **arguments: Any,
) -> dict[str, list[Tensor]]:
    """p, m and v after steps of which the fourth multiplies one element's gradient, or all, by `worst`."""
    params = parameters(dtype, device)
    optimizer = cls(params, lr=LR, **arguments)
    for t in range(steps):
        for p in params:
            g = gradient(p, t)
            if t == 3:
                (g if whole else g.view(-1)[:1]).mul_(worst)
            p.grad = g.to(device)
        optimizer.step()
    state = [optimizer.state[p] for p in params]
    found = {"p": [p.detach() for p in params]}
    if "exp_avg_var" in state[0]:
        found |= {"m": [s["exp_avg"] for s in state], "v": [s["exp_avg_var"] for s in state]}
    return {name: [x.cpu().double() for x in tensors] for name, tensors in found.items()}


def assert_alike(ours: dict[str, list[Tensor]], theirs: dict[str, list[Tensor]], dtype: torch.dtype) -> None:
    """nan and inf at the same elements, m and v near each other, and p within a thousandth of a step."""
    unit = torch.finfo(dtype).eps
    for name, limit in (("p", 1e-5), ("m", 1e-5), ("v", 1e-3)):
        for a, b in zip(ours[name], theirs[name], strict=True):
            atol = 1e-3 * LR + unit if name == "p" else 1e-30
            torch.testing.assert_close(
                a, b, rtol=limit, atol=atol, equal_nan=True, msg=lambda x, name=name: f"{name}: {x}"
            )


def check_exploded(
    arguments: dict[str, Any],
    cls: Any,
    own: dict[str, Any],
    *,
    magnitudes: Sequence[float] = (1e20, 1e38),
    alike: bool = True,
    **options: Any,
) -> None:
    """Finite wherever torch's Adam is, and eager's; an odd K's v is rounding: p alone is looked at then."""
    dtype = options.get("dtype", torch.float32)
    most = torch.finfo(dtype).max
    for worst in [m for m in magnitudes if m < most] or [6e4]:
        for whole in (False, True):
            shared = dict(worst=worst, whole=whole, **options)
            ours = exploded(cls, **shared, **own, **arguments)
            assert all(p.isfinite().all() for p in ours["p"]), (worst, whole)
            assert all(m.isfinite().all() for m in ours["m"]), (worst, whole)
            if alike and own.get("K", 2) % 2 == 0 and arguments.get("foreach") is not False:
                theirs = exploded(cls, **shared, **own, foreach=False)
                assert_alike(ours, theirs, options.get("state_dtype") or dtype)


def check_not_finite(
    arguments: dict[str, Any], cls: Any, own: dict[str, Any], value: float, **options: Any
) -> None:
    """nan at the element where torch's Adam has it, and there alone where no mean over the layer is taken.

    With a mean, a nan makes the layer nan; infinity stops the layer, or makes it nan too, as in eager.
    """
    ours = exploded(cls, value, **options, **own, **arguments)
    adam = exploded(torch.optim.Adam, value)
    theirs = exploded(cls, value, **own, foreach=False)
    for p, q, r in zip(ours["p"], adam["p"], theirs["p"], strict=True):
        assert torch.equal(p.isnan(), r.isnan())
        assert p.isnan()[q.isnan()].all()
        assert q.isnan().sum() == 1
        if "layerwise" not in cls.own:
            assert torch.equal(p.isnan(), q.isnan())
