"""Optimizers by name: the library's and torch's, rivals as `pytorch_optimizer` has them, and anybody's own.

One's own is an import path such as "mypackage.optim:Lion", or an entry point of the group
"aida_bench.optimizers": a class, or any function, that takes parameters and then its settings by name. Its
groups have an lr; they and its state hold numbers, words, tensors, lists and dictionaries, to go on from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from aida import create_optimizer
from aida_bench import plugins
from aida_bench.errors import UserError

VARIANTS = {"aida-k1": "aida"}
"""Names for one optimizer under settings of its own; the recipe holds them."""


def build_optimizer(name: str, model: nn.Module, **settings: Any) -> Optimizer:
    """The optimizer `name` for all trainable parameters of `model`; `no_decay` is create_optimizer's.

    Raises UserError where the name stands for no optimizer, and what its constructor raises.
    """
    if name in RIVALS:
        build = RIVALS[name]
    elif plugins.is_plugin(plugins.OPTIMIZERS, name):
        build = plugins.load_plugin(plugins.OPTIMIZERS, name)
    else:
        return create_optimizer(VARIANTS.get(name, name), model, **settings)
    built = build(_params(model, settings.pop("no_decay", ())), **settings)
    if not isinstance(built, Optimizer):
        raise UserError(f"{name} gives {built!r:.80}, no torch.optim.Optimizer: name what makes one.")
    if any(group.get("lr") is None for group in built.param_groups):
        raise UserError(f"{name} has groups without lr, which the schedule sets: name it lr there.")
    return built


def _params(model: nn.Module, no_decay: Any) -> list[Any]:
    """Trainable parameters; with `no_decay`, the groups that create_optimizer makes, the second undecayed."""
    if not no_decay:
        return [p for p in model.parameters() if p.requires_grad]
    groups = create_optimizer("sgd", model, lr=0.0, weight_decay=1.0, no_decay=no_decay).param_groups
    return [
        {"params": group["params"], **({} if group["weight_decay"] else {"weight_decay": 0.0})}
        for group in groups
    ]


def _rival(name: str, **always: Any) -> Callable[..., Optimizer]:
    def build(params: list[Any], **settings: Any) -> Optimizer:
        import pytorch_optimizer

        # One tensor at a time: the package's lists of tensors are not always the same mathematics.
        return getattr(pytorch_optimizer, name)(params, foreach=False, **always, **settings)

    return build


def _decayed(build: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """Coupled weight decay, g + wd*p, for an optimizer without one."""

    def with_decay(params: list[Any], *, weight_decay: float = 0.0, **settings: Any) -> Optimizer:
        optimizer = build(params, **settings)
        for group in optimizer.param_groups:
            group.setdefault("weight_decay", weight_decay)
        optimizer.register_step_pre_hook(_add_decay)
        return optimizer

    return with_decay


def _add_decay(optimizer: Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.grad.add_(p.detach(), alpha=group["weight_decay"])


# The package decays decoupled unless told otherwise; the comparison's origin does not.
RIVALS: dict[str, Callable[..., Optimizer]] = {
    "adabound": _rival("AdaBound", weight_decouple=False),
    "yogi": _rival("Yogi", weight_decouple=False),
    "msvag": _decayed(_rival("MSVAG")),
    "fromage": _rival("Fromage"),
}
