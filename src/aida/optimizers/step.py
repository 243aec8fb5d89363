"""The one step: gram -> coefficients -> apply, for any backend and any part of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import family
from ..backends import rounding
from ..backends.contract import Backend, Coefficients, Column, Layers, Scalars

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


def run(parts: list[Part], whole_gram: Whole | None = None, whole_stepsizes: Whole | None = None) -> None:
    """Step the parts; every whole-layer sum that the rule needs is taken before anything is written.

    Where layers are sharded, the two functions turn sums over shards into sums over whole layers.
    """
    grams = [part.backend.gram(part.layers, part.scalars) if part.needs_gram else None for part in parts]
    if whole_gram:
        whole_gram([(part.params, gram) for part, gram in zip(parts, grams, strict=True) if gram is not None])
    rules = [_rule(part, gram) for part, gram in zip(parts, grams, strict=True)]
    post = [i for i, part in enumerate(parts) if part.scalars.layerwise == "post"]
    for i in post:
        coefficients, _ = rules[i]
        rules[i] = (
            coefficients,
            parts[i].backend.stepsize_sum(parts[i].layers, coefficients, parts[i].scalars),
        )
    if whole_stepsizes:
        whole_stepsizes([(parts[i].params, rules[i][1]) for i in post])
    for part, (coefficients, total) in zip(parts, rules, strict=True):
        part.backend.apply(part.layers, coefficients, total, part.scalars)


def _rule(part: Part, gram: Any) -> tuple[Coefficients, Any]:
    """(alpha, beta), and the sum of r^2 for "pre"."""
    if gram is None:
        return part.coefficients, None
    gg, gm, mm, dd = gram.T
    coefficients = part.project(gg, gm, mm) if part.project else part.coefficients
    if part.scalars.layerwise != "pre":
        return coefficients, None
    return coefficients, family.residual_square(*coefficients, gg, gm, dd)


def scalars(steps: list[Tensor], numbers: list[int], group: dict[str, Any], *, eps_outside: bool) -> Scalars:
    """The numbers of a step for layers whose counters, already advanced, are `steps`.

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
        **_columns(steps, lr, group, eps_outside),
        keys=_keys(steps, numbers, group),
        round_p=group["stochastic_rounding"],
    )


def _columns(
    steps: list[Tensor], lr: float | Tensor, group: dict[str, Any], eps_outside: bool
) -> dict[str, Column]:
    """What depends on each layer's own step t, since a layer may have joined later than others."""
    names = ("inv_bias2", "floor", "eps_out", "step_size")
    b1, b2 = group["betas"]
    eps = group["eps"]

    def at(t: Any) -> tuple[Any, ...]:
        eps_out = eps if eps_outside else 0.0
        return family.step_scalars(t, lr=lr, b1=b1, b2=b2, eps=eps, eps_out=eps_out, rectify=group["rectify"])

    if _stays_tensor(group) or isinstance(lr, Tensor):
        t = torch.stack(steps).to(torch.float64)
        columns = [torch.as_tensor(c, dtype=t.dtype, device=t.device).expand_as(t) for c in at(t)]
    else:
        ts = [step.item() for step in steps]
        known = {t: at(t) for t in set(ts)}
        columns = map(list, zip(*(known[t] for t in ts), strict=True))
    return dict(zip(names, columns, strict=True))


def _keys(steps: list[Tensor], numbers: list[int], group: dict[str, Any]) -> Column | None:
    """Each layer's key of this step, where the group rounds at random."""
    if group["state_dtype"] != torch.bfloat16 and not group["stochastic_rounding"]:
        return None
    layers = [rounding.layer_key(group["seed"], number) for number in numbers]
    if _stays_tensor(group):
        t = torch.stack(steps).to(torch.int64).unbind()
        return rounding.step_key(torch.stack(torch._foreach_add(t, layers)))
    return [rounding.step_key(layer + int(t.item())) for layer, t in zip(layers, steps, strict=True)]


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
