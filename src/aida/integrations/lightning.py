"""In Lightning, as `lightning` or as `pytorch_lightning`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

from ..monitor.sinks import needed
from .watching import Watching

# Both may be installed: the one in use has been imported.
LIBRARIES = ("lightning", "pytorch_lightning")
FOUND = next((x for x in LIBRARIES if x in sys.modules), None) or next(
    filter(find_spec, LIBRARIES), LIBRARIES[1]
)
needed(FOUND, "lightning", "aida.integrations.lightning")
Callback: Any = needed("lightning.pytorch" if FOUND == "lightning" else FOUND, "lightning", "").Callback


class StepsizeCallback(Watching, Callback):
    """A Lightning Callback that watches the Trainer's optimizers, each with a monitor of its own.

    Optimizers whose stepsizes are not known (the SGD of a GAN's critic) are left out, with one warning. In
    LightningCLI its name is aida.integrations.lightning.StepsizeCallback.

    Arguments:
        every: steps of the optimizer between two records, 1 or more. Default: 100.
        sinks: as StepsizeMonitor's, or "logger", the Trainer's loggers, at the optimizer's own steps; or a
            list of them. Default: None, "logger" where the Trainer has one, else "memory".
        select, all_ranks, run: as StepsizeMonitor's.

    Raises what StepsizeMonitor raises.

    Example:
        lightning.Trainer(logger=CSVLogger("logs"), callbacks=[StepsizeCallback(every=100)])
    """

    # Each by name, since LightningCLI gives every argument that it can find.
    def __init__(
        self,
        every: int = 100,
        sinks: Any = None,
        select: Any = None,
        all_ranks: bool = False,
        run: str | None = None,
    ) -> None:
        super().__init__(every, sinks, select, all_ranks, run)
        self._loggers: list[Any] = []

    def send(self, values: dict[str, float], step: int) -> None:
        """To every logger of the Trainer."""
        for logger in self._loggers:
            logger.log_metrics(values, step=step)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to watch, and end what was begun before."""
        self._loggers = [*trainer.loggers]
        self.begin(trainer.optimizers, pl_module, has_logger=bool(self._loggers))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """End watching."""
        self.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End watching."""
        self.close(failed=True)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End watching."""
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_loggers": []}
