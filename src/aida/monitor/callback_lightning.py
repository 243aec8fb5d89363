"""LightningCallback, in a module of its own since it needs lightning or pytorch_lightning."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

from .callback import Watching
from .sinks import needed

# Both may be installed: the one in use has been imported.
LIBRARIES = ("lightning", "pytorch_lightning")
FOUND = next((x for x in LIBRARIES if x in sys.modules), None) or next(
    filter(find_spec, LIBRARIES), LIBRARIES[1]
)
needed(FOUND, "lightning", "LightningCallback")
Callback: Any = needed("lightning.pytorch" if FOUND == "lightning" else FOUND, "lightning", "").Callback


class LightningCallback(Watching, Callback):
    """A Callback of Lightning that watches the Trainer's optimizers. Arguments: StepsizeMonitor's."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.begin(trainer.optimizers, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.close()
