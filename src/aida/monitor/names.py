"""What layers are called, and whose they are, whatever wrappers are around model and optimizer."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from .definitions import definition_for

MODELS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "AveragedModel": "module",
    "DeepSpeedEngine": "module",
    "OptimizedModule": "_orig_mod",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}
"""By the class of a wrapper or of a base of its, what it calls the module inside."""
OPTIMIZERS = ("optimizer", "optim", "_optimizer", "base_optimizer", "_base_optimizer")
"""What wrappers call the optimizer inside: accelerate's, ZeRO's and PostLocalSGD's, SAM's, Lookahead's."""


def unwrapped(optimizer: Any) -> Any:
    """The optimizer whose stepsizes are known inside an Optimizer that wraps it, else the one given."""
    inner, seen = optimizer, set()
    while isinstance(inner, Optimizer) and definition_for(inner) is None and id(inner) not in seen:
        seen.add(id(inner))
        inside = (vars(inner).get(name) for name in OPTIMIZERS)
        inner = next((x for x in inside if isinstance(x, Optimizer)), None)
    return optimizer if inner is None or definition_for(inner) is None else inner


def layer_names(model: nn.Module) -> dict[Tensor, str]:
    """Each parameter's name in the user's own model; in full where two would have one name."""
    cuts = [(path, inside) for path, module in model.named_modules() if (inside := _inside(module))]
    full = {p: name for name, p in model.named_parameters()}
    short = {p: _without(name, cuts) for p, name in full.items()}
    times = Counter(short.values())
    return {p: name if times[name] == 1 else full[p] for p, name in short.items()}


def warn_of_another_model(optimizer: Optimizer, model: nn.Module | None) -> None:
    """Warn where a model has none of an optimizer's parameters: then it gives the layers no names."""
    given = [p for group in optimizer.param_groups for p in group["params"]]
    if model is None or not given:
        return
    if {*map(id, model.parameters())}.isdisjoint(map(id, given)):
        warnings.warn(
            f"this {type(model).__name__} has none of the parameters of this {type(optimizer).__name__}, so "
            "that its layers have no names: give the model whose parameters() the optimizer has",
            stacklevel=4,
        )


def _inside(module: nn.Module) -> str | None:
    found = (MODELS.get(cls.__name__) for cls in type(module).__mro__)
    return next((name for name in found if name in module._modules), None)


def _without(name: str, cuts: list[tuple[str, str]]) -> str:
    """The name less every wrapper's part, the innermost first: then those around it stay where they are."""
    for path, inside in reversed(cuts):
        start = f"{path}." if path else ""
        if name.startswith(f"{start}{inside}."):
            name = start + name[len(start) + len(inside) + 1 :]
    return name


def named_layers(
    optimizer: Optimizer, model: nn.Module | None
) -> Iterator[tuple[int, str, Any, Tensor, dict[str, Any]]]:
    """(layer's number from 1, its name, what is of it, parameter, group), for each parameter or Slice.

    A layer of several tensors stands as often as it has tensors.
    """
    layering = getattr(optimizer, "layering", None)
    numbers: dict[Any, int] = {}
    for name, p, group in named_parameters(optimizer, model):
        key = layering.named_key(p) if layering is not None else None
        for part in layering.rows(p) if layering is not None else (p,):
            own = name if part is p else f"{name}{part}"
            number = numbers.setdefault((own,) if key is None else key, len(numbers) + 1)
            yield number, key or own, part, p, group


def named_parameters(
    optimizer: Optimizer, model: nn.Module | None
) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
    """(name, parameter, group): the name in `model`, else in named parameters, else the number from 0.

    What DistributedDataParallel, torch.compile and their like put before a name is left out.
    """
    names = layer_names(model) if model is not None else {}
    number, seen = 0, set()
    for group in optimizer.param_groups:
        own = group.get("param_names") or ()
        for i, p in enumerate(group["params"]):
            name = names.get(p) or (own[i] if i < len(own) else str(number))
            if name in seen:  # of two models in one optimizer, or a number that is also a name
                name = f"{name} ({number})"
            seen.add(name)
            yield name, p, group
            number += 1
