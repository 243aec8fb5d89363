"""Optimizers by name: the library's and torch's, rivals as `pytorch_optimizer` has them, and anybody's own.

One's own is an import path such as "mypackage.optim:Lion", or an entry point of the group
"aida_bench.optimizers": a class, or any function, that takes parameters and then its settings by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from aida import create_optimizer
from aida_bench import plugins

VARIANTS = {"aida-k1": "aida"}
"""Names for one optimizer under settings of its own; the recipe holds them."""


def build_optimizer(name: str, model: nn.Module, **settings: Any) -> Optimizer:
    """The optimizer `name` for all trainable parameters of `model`."""
    if name in RIVALS:
        return RIVALS[name](model, **settings)
    if plugins.is_plugin(plugins.OPTIMIZERS, name):
        return _own(name, model, **settings)
    return create_optimizer(VARIANTS.get(name, name), model, **settings)


def _own(name: str, model: nn.Module, *, no_decay: Any = (), **settings: Any) -> Optimizer:
    """One from outside; `no_decay` is create_optimizer's, which makes the groups."""
    params: list[Any] = _trainable(model)
    if no_decay:
        grouped = create_optimizer("sgd", model, lr=0.0, weight_decay=1.0, no_decay=no_decay).param_groups
        params = [
            {"params": group["params"], **({} if group["weight_decay"] else {"weight_decay": 0.0})}
            for group in grouped
        ]
    return plugins.load_plugin(plugins.OPTIMIZERS, name)(params, **settings)


def _rival(name: str) -> Callable[..., Optimizer]:
    def build(model: nn.Module, **settings: Any) -> Optimizer:
        import pytorch_optimizer

        # One tensor at a time: the package's lists of tensors are not always the same mathematics.
        return getattr(pytorch_optimizer, name)(_trainable(model), foreach=False, **settings)

    return build


def _coupled(build: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """The package decays decoupled unless told otherwise; the comparison's origin does not."""
    return lambda model, **settings: build(model, weight_decouple=False, **settings)


def _decayed(build: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """Coupled weight decay, g + wd*p, for an optimizer without one."""

    def with_decay(model: nn.Module, *, weight_decay: float = 0.0, **settings: Any) -> Optimizer:
        optimizer = build(model, **settings)
        for group in optimizer.param_groups:
            group["weight_decay"] = weight_decay
        optimizer.register_step_pre_hook(_add_decay)
        return optimizer

    return with_decay


def _add_decay(optimizer: Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.grad.add_(p.detach(), alpha=group["weight_decay"])


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


RIVALS: dict[str, Callable[..., Optimizer]] = {
    "adabound": _coupled(_rival("AdaBound")),
    "yogi": _coupled(_rival("Yogi")),
    "msvag": _decayed(_rival("MSVAG")),
    "fromage": _rival("Fromage"),
}
