"""How many steps an optimizer has taken: what its layers count, and whether a step() was one."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from .definitions import counter, definition_for, on_host


def steps_taken(optimizer: Optimizer, wait: bool = True) -> int | None:
    """The largest step count of the optimizer's layers; None where the host would have to wait for it."""
    define: Any = definition_for(optimizer)
    found = [0]
    for group in optimizer.param_groups:
        for p in group["params"]:
            if state := optimizer.state.get(p):
                count = counter(group, state)
                count = define(optimizer, group, state).step if count is None else count
                if not wait and not on_host(count):
                    return None
                found.append(int(count))
    return max(found)


def has_gradient(optimizer: Optimizer) -> bool:
    """Whether any layer has a gradient, which is that of the last step until it is taken away."""
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def is_skipped(optimizer: Any) -> bool:
    """Whether a GradScaler has made this step() one that changes nothing, as far as the host knows."""
    found: Any = getattr(optimizer, "found_inf", None)
    return found is not None and on_host(found) and float(found) > 0
