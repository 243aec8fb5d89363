"""An optimizer of your own in comparisons and studies: any class that takes parameters and named settings.

aida compare digits --optimizers aida,own_optimizer:Lion --lr 1e-3
aida study run own_study.toml
"""

import torch


class Lion(torch.optim.Optimizer):
    """p <- p - lr*(sign(b1*m + (1-b1)*g) + weight_decay*p);  m <- b2*m + (1-b2)*g  (arXiv 2302.06675)."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(torch.sign(m.lerp(p.grad, 1 - b1)), alpha=-group["lr"])
                m.lerp_(p.grad, 1 - b2)
