"""What the callbacks of trainers share: monitors that are begun once and closed, and where their rows go."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from ..monitor.collect import Select
from ..monitor.definitions import definition_for, unknown
from ..monitor.monitor import StepsizeMonitor, check
from ..monitor.names import unwrapped
from ..monitor.schema import Row
from ..monitor.sinks import MEMORY, as_sinks, scalars

LOGGER = "logger"


class ToLogger:
    """A sink that gives each record's numbers, by tag, to a callback."""

    def __init__(self, callback: Watching) -> None:
        self.callback = callback

    def write(self, rows: Sequence[Row]) -> None:
        """Log one record."""
        self.callback.send(scalars(rows), rows[0]["step"])


class Watching:
    """A callback's monitors, one for each optimizer whose stepsizes are known. They are not pickled.

    sinks: as StepsizeMonitor's, and "logger", the trainer's own loggers. Default: None, "logger" where the
    trainer has any, else "memory". The other arguments are StepsizeMonitor's.
    """

    def __init__(
        self, every: int, sinks: Any, select: Select | None, all_ranks: bool, run: str | None
    ) -> None:
        super().__init__()
        every = check(every, select)
        logger = {LOGGER: ToLogger(self)}
        self.sinks = None if sinks is None else as_sinks(sinks, logger)
        self._by_default = logger[LOGGER], *as_sinks(MEMORY)
        self.arguments: dict[str, Any] = dict(every=every, select=select, all_ranks=all_ranks, run=run)
        self.monitors: tuple[StepsizeMonitor, ...] = ()

    def send(self, values: dict[str, float], step: int) -> None:
        """Give the numbers of a record to the trainer's loggers. step: the optimizer's."""
        raise NotImplementedError

    @property
    def monitor(self) -> StepsizeMonitor | None:
        """The first monitor; None before training begins and where no optimizer can be watched."""
        return next(iter(self.monitors), None)

    def begin(self, optimizers: Sequence[Any], model: Any, has_logger: bool) -> None:
        """Watch the optimizers, and no longer those of a training before this one."""
        self.close(failed=True)  # one that has ended well is closed
        found = [
            unwrapped(getattr(o, "optimizer", o) if not isinstance(o, Optimizer) else o) for o in optimizers
        ]
        known = [o for o in found if definition_for(o) is not None]
        others = {type(o).__name__: unknown(o) for o in found if o not in known}
        if others:
            warnings.warn(f"no stepsizes of {', '.join(others)}: {next(iter(others.values()))}", stacklevel=3)
        names = [f"{type(o).__name__} {found.index(o)}" if len(known) > 1 else None for o in known]
        sinks = [self._by_default[not has_logger]] if self.sinks is None else self.sinks
        self.monitors = tuple(
            StepsizeMonitor(o, model, name=name, sinks=sinks, **self.arguments)
            for o, name in zip(known, names, strict=True)
        )

    def close(self, failed: bool = False) -> None:
        """Stop watching and write what is under way. failed: whether training has ended in an error."""
        for monitor in self.monitors:
            monitor.close(failed)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "monitors": ()}
