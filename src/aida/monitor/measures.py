"""What is measured of an optimizer's layers, from its state alone; nothing here writes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from .. import family
from ..optimizers.base import Layerwise


def layer_stepsizes(optimizer: Optimizer, model: torch.nn.Module | None = None) -> list[dict[str, Any]]:
    """Mean and standard deviation of each layer's adaptive stepsizes u, one row a parameter that was stepped.

    u leaves out lr and the first bias correction, as the figure of arXiv 2203.13273 does:
    the family's 1/(sqrt(v/(1-b2^t) + eps/(1-b2)) + eps_out), and 1/(sqrt(v/(1-b2^t)) + eps) of torch's Adam
    and AdamW. Optimizers without an adaptive stepsize give no rows.
    Rows: layer (its name in `model` or in named parameters, else its number), numel, mean, std (population).
    """
    names = {id(p): name for name, p in (model.named_parameters() if model is not None else ())}
    rows, number = [], 0
    for group in optimizer.param_groups:
        for i, p in enumerate(group["params"]):
            name = names.get(id(p)) or group.get("param_names", {i: str(number)})[i]
            number += 1
            state = optimizer.state.get(p)
            u = _stepsize(optimizer, group, state) if state else None
            if u is not None and u.numel():
                std, mean = torch.std_mean(u.double(), correction=0)
                rows.append(dict(layer=name, numel=p.numel(), mean=mean.item(), std=std.item()))
    return rows


@torch.no_grad()
def _stepsize(optimizer: Optimizer, group: dict[str, Any], state: dict[str, Any]) -> Tensor | None:
    """The stepsizes u of one layer as they stand after the last step; None where there are none."""
    b2 = group["betas"][1] if "betas" in group else 0.0
    if isinstance(optimizer, Layerwise):
        inv_bias2, floor, eps_out, _ = family.step_scalars(
            float(state["step"]),
            lr=0.0,
            b1=group["betas"][0],
            b2=b2,
            eps=group["eps"],
            eps_out=group["eps"] if optimizer.eps_outside else 0.0,
            rectify=group["rectify"],
        )
        u = 1 / (_real(state["exp_avg_var"]).mul(inv_bias2).add_(floor).sqrt_() + eps_out)
        return u.mean() if group.get("layerwise") == "post" else u
    if isinstance(optimizer, Adam):  # and AdamW
        v = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
        return 1 / ((_real(v) / (1 - b2 ** float(state["step"]))).sqrt_() + group["eps"])
    return None


def _real(x: Tensor) -> Tensor:
    x = torch.view_as_real(x) if x.is_complex() else x
    return x.to(torch.promote_types(x.dtype, torch.float32))
