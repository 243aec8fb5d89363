"""The one step: gram -> coefficients -> apply, for any backend and any part of a model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import family
from ..backends import rounding
from ..backends.contract import Backend, Coefficients, Column, Layers, Scalars
from .validate import state_dtype

Whole = Callable[[list[tuple[list[Tensor], Any]]], None]  # of parameters and their rows of sums, in place


@dataclass(slots=True)
class Part:
    """Layers of one group that are stepped together, with what their step needs."""

    params: list[Tensor]  # the optimizer's own, of which layers.p are this rank's shards
    layers: Layers
    scalars: Scalars
    backend: Backend
    project: Callable[..., Coefficients] | None  # of (gg, gm, mm), where coefficients depend on the gradients
    coefficients: Coefficients  # where they do not

    @property
    def needs_gram(self) -> bool:
        return self.project is not None or self.scalars.layerwise == "pre"

    def gram(self) -> Any:
        return self.backend.gram(self.layers, self.scalars) if self.needs_gram else None

    def stepsize_sum(self, coefficients: Coefficients) -> Any:
        return self.backend.stepsize_sum(self.layers, coefficients, self.scalars)

    def apply(self, coefficients: Coefficients, total: Any) -> None:
        self.backend.apply(self.layers, coefficients, total, self.scalars)


def run(parts: list[Part], whole_gram: Whole | None = None, whole_stepsizes: Whole | None = None) -> None:
    """Step the parts; every whole-layer sum that the rule needs is taken before anything is written.

    Where layers are sharded, the two functions turn sums over shards into sums over whole layers.
    """
    grams = [part.gram() for part in parts]
    if whole_gram:
        whole_gram([(part.params, gram) for part, gram in zip(parts, grams, strict=True) if gram is not None])
    rules = [_rule(part, gram) for part, gram in zip(parts, grams, strict=True)]
    post = [i for i, part in enumerate(parts) if part.scalars.layerwise == "post"]
    for i in post:
        coefficients, _ = rules[i]
        rules[i] = coefficients, parts[i].stepsize_sum(coefficients)
    if whole_stepsizes:
        whole_stepsizes([(parts[i].params, rules[i][1]) for i in post])
    for part, (coefficients, total) in zip(parts, rules, strict=True):
        part.apply(coefficients, total)


def _rule(part: Part, gram: Any) -> tuple[Coefficients, Any]:
    """(alpha, beta), and the sum of r^2 for "pre"."""
    if gram is None:
        return part.coefficients, None
    gg, gm, mm, dd = gram.T
    # An infinite gradient makes its layer nan, as in every backend; torch.compile cannot trace errstate.
    with np.errstate(all="ignore") if isinstance(gram, np.ndarray) else nullcontext():
        coefficients = part.project(gg, gm, mm) if part.project else part.coefficients
    if part.scalars.layerwise != "pre":
        return coefficients, None
    return coefficients, family.residual_square(*coefficients, gg, gm, dd)


def advance(
    steps: list[Tensor], group: dict[str, Any], backend: Backend, found_inf: Tensor | None
) -> list[float] | Tensor:
    """Add 1 to the layers' counters; the new counts, as a tensor [L] where the host must not read them."""
    if found_inf is not None:
        torch._foreach_add_(steps, (found_inf <= 0).to(steps[0]))
        return torch.stack(steps).to(torch.float64)
    on_device = steps[0].device.type != "cpu"
    as_tensor = on_device or _stays_tensor(group) or isinstance(_number(group["lr"]), Tensor)
    if not as_tensor and (counter := getattr(backend, "advance", None)):
        counts = counter(steps)
        if counts is not None:
            return counts
    torch._foreach_add_(steps, 1)
    return torch.stack(steps).to(torch.float64) if as_tensor else [step.item() for step in steps]


def unscales(backend: Backend) -> bool:
    """Whether the backend divides by grad_scale and heeds found_inf."""
    return getattr(backend, "UNSCALES", False)


def check_unscales(backend: Backend) -> None:
    if not unscales(backend):
        raise RuntimeError(
            "the optimizer's grad_scale and found_inf are heeded by the fused step on a GPU alone: "
            "leave them to torch.amp.GradScaler, which sets them where they are"
        )


def scalars(
    counts: list[float] | Tensor, numbers: list[int], group: dict[str, Any], *, eps_outside: bool
) -> Scalars:
    """The numbers of a step for layers whose counters stand at `counts`.

    numbers: each layer's place in the whole optimizer.
    """
    lr, weight_decay, decoupled = _number(group["lr"]), group["weight_decay"], group["decoupled_weight_decay"]
    b1, b2 = group["betas"]
    return Scalars(
        b1=b1,
        b2=b2,
        weight_decay=0.0 if decoupled else weight_decay,
        shrink=1 - lr * weight_decay if decoupled else 1.0,
        sign=-1.0 if group["maximize"] else 1.0,
        layerwise=group.get("layerwise"),
        **_columns(counts, lr, group, eps_outside),
        keys=_keys(counts, numbers, group),
        round_p=group["stochastic_rounding"],
    )


def _columns(
    counts: list[float] | Tensor, lr: float | Tensor, group: dict[str, Any], eps_outside: bool
) -> dict[str, Any]:
    """What depends on each layer's own step t, since a layer may have joined later than others."""
    names = ("inv_bias2", "floor", "eps_out", "step_size")
    b1, b2 = group["betas"]
    eps = group["eps"]

    def at(t: Any) -> tuple[Any, ...]:
        eps_out = eps if eps_outside else 0.0
        return family.step_scalars(t, lr=lr, b1=b1, b2=b2, eps=eps, eps_out=eps_out, rectify=group["rectify"])

    if isinstance(t := counts, Tensor):
        # A number is filled in, not copied from the host, which would wait for the device.
        columns = [c.expand_as(t) if isinstance(c, Tensor) else torch.full_like(t, c) for c in at(t)]
    elif len(known := {t: at(t) for t in set(counts)}) == 1:
        columns = [[c] * len(counts) for c in known[counts[0]]]
    else:
        columns = map(list, zip(*(known[t] for t in counts), strict=True))
    return dict(zip(names, columns, strict=True))


def _keys(counts: list[float] | Tensor, numbers: list[int], group: dict[str, Any]) -> Column | None:
    """Each layer's key of this step, where the group rounds at random."""
    if state_dtype(group) != torch.bfloat16 and not group["stochastic_rounding"]:
        return None
    layers = rounding.layer_key(group["seed"], np.array(numbers))
    if isinstance(counts, Tensor):
        t = counts.to(torch.int64)
        return rounding.step_key(t + torch.from_numpy(layers).to(t.device, non_blocking=True))
    return rounding.step_key(layers + np.array(counts, np.int64)).tolist()


def _stays_tensor(group: dict[str, Any]) -> bool:
    """Whether nothing of the step may be read by the host."""
    return torch.compiler.is_compiling() or group["capturable"]


def _number(lr: float | Tensor) -> float | Tensor:
    """lr as a float where reading it costs nothing and nothing is traced; else as it is."""
    if not isinstance(lr, Tensor):
        return lr
    if torch.compiler.is_compiling() or lr.requires_grad or lr.device.type != "cpu":
        return lr.squeeze()
    return lr.item()
