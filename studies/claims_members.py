"""Members that answer one question: is it the projection? Each is Aida with another damping of its residual.

For even K, Aida's residual is cos^K(theta)*(m - g) of each layer, theta its angle between g and m (arXiv
2203.13273); `Aida.rule` gives that damping of every layer as (alpha, beta). The rules below hold for NumPy's
arrays and for torch's tensors, one element per layer of the parameter group.
"""

from __future__ import annotations

from typing import Any

import torch

from aida import Aida


def constant_damping(c: float) -> type[Aida]:
    """r = sqrt(c)*(m - g), one c for all layers and steps.

    Nothing to tune: it is Aida with K=0, that is AdaBelief with eps inside the root alone, at eps/c and
    lr/sqrt(c).
    """
    return type("ConstantDamping", (Aida,), {"rule": (c**0.5, c**0.5)})


class MeanDamping(Aida):
    """The layers' mean of cos^K, one number for all layers, which changes in time."""

    @staticmethod
    def rule(gg: Any, gm: Any, mm: Any, K: int, xi: float) -> Any:
        alpha, beta = Aida.rule(gg, gm, mm, K, xi)
        return alpha.mean(), beta.mean()


class RolledDamping(Aida):
    """Layer i has the damping of layer i+1, the last one that of the first: the same values, misplaced."""

    @staticmethod
    def rule(gg: Any, gm: Any, mm: Any, K: int, xi: float) -> Any:
        alpha, beta = Aida.rule(gg, gm, mm, K, xi)
        following = [*range(1, len(gg)), 0]
        return alpha[following], beta[following]


class WholeModelDamping(Aida):
    """cos^K of the angle between g and m of the whole model, one number, which changes in time."""

    @staticmethod
    def rule(gg: Any, gm: Any, mm: Any, K: int, xi: float) -> Any:
        return Aida.rule(gg.sum(), gm.sum(), mm.sum(), K, xi)


class CappedMomentum(torch.optim.Optimizer):
    """What a member is whose every stepsize sits at the cap: p <- p - lr*cap/(1 - b1^t)*m.

    cap = sqrt((1-b2)/eps), m Adam's momentum; weight decay as a member's, coupled or decoupled. That is
    momentum SGD at lr*cap*(1-b1) with Adam's first bias correction in its schedule: torch's SGD sums
    gradients where Adam averages them.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        K: int = 0,
        xi: float = 0.0,
    ) -> None:
        """K and xi are taken, so that Aida's settings are valid, and have no meaning here."""
        shared = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**shared, "decoupled_weight_decay": decoupled_weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            b1, b2 = group["betas"]
            cap = ((1 - b2) / group["eps"]) ** 0.5
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(step=0, exp_avg=torch.zeros_like(p))
                state["step"] += 1
                decay, decoupled = group["weight_decay"], group["decoupled_weight_decay"]
                state["exp_avg"].lerp_(p.grad.add(p, alpha=0.0 if decoupled else decay), 1 - b1)
                p.mul_(1 - group["lr"] * decay if decoupled else 1.0)
                p.sub_(state["exp_avg"], alpha=group["lr"] * cap / (1 - b1 ** state["step"]))
