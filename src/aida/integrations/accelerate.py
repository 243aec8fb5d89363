"""In a loop of accelerate's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..monitor.schema import Row
from ..monitor.sinks import needed, scalars

needed("accelerate", "accelerate", "aida.integrations.accelerate", load=False)


class Trackers:
    """A sink: the trackers of an Accelerator, by accelerator.log, at the optimizer's steps.

    StepsizeMonitor itself looks into the optimizer that accelerator.prepare gives.

    Arguments:
        accelerator: whose trackers are used, once init_trackers() has made them.

    Raises TypeError for what has no log().

    Example:
        StepsizeMonitor(optimizer, model, sinks=Trackers(accelerator))
    """

    def __init__(self, accelerator: Any) -> None:
        if not callable(getattr(accelerator, "log", None)):
            raise TypeError(f"Trackers takes the Accelerator, not {type(accelerator).__name__}")
        self.accelerator = accelerator

    def write(self, rows: Sequence[Row]) -> None:
        """Log one record."""
        self.accelerator.log(scalars(rows), step=rows[0]["step"])
