"""What the callbacks of trainers share."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from .definitions import definition_for, unknown
from .monitor import StepsizeMonitor, check
from .names import unwrapped
from .sinks import MEMORY, as_sinks


class Watching:
    """What the callbacks share: monitors that are begun once and closed, and are not pickled."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        sinks = {key: arguments.pop(key) for key in ("sinks", "to") if key in arguments}
        if len(sinks) > 1:
            raise TypeError("`to` is the former name of `sinks`: give one of them")
        self.arguments = {**arguments, "sinks": as_sinks(next(iter(sinks.values()), MEMORY))}
        check(every=arguments.get("every", 100), select=arguments.get("select"))
        self.monitors: tuple[StepsizeMonitor, ...] = ()

    @property
    def monitor(self) -> StepsizeMonitor | None:
        """The first monitor; None before training begins and where no optimizer can be watched."""
        return next(iter(self.monitors), None)

    def begin(self, optimizers: Sequence[Any], model: Any) -> None:
        """Watch the optimizers, and no longer those of a training before this one."""
        self.close()
        found = [
            unwrapped(getattr(o, "optimizer", o) if not isinstance(o, Optimizer) else o) for o in optimizers
        ]
        known = [o for o in found if definition_for(o) is not None]
        others = {type(o).__name__: unknown(o) for o in found if o not in known}
        if others:
            warnings.warn(f"no stepsizes of {', '.join(others)}: {next(iter(others.values()))}", stacklevel=3)
        names = [f"{type(o).__name__} {found.index(o)}" if len(known) > 1 else None for o in known]
        self.monitors = tuple(
            StepsizeMonitor(o, model, name=name, **self.arguments)
            for o, name in zip(known, names, strict=True)
        )

    def close(self) -> None:
        for monitor in self.monitors:
            monitor.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "monitors": ()}
