"""HuggingFaceCallback, in a module of its own since it needs transformers."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from .callback import Watching


class HuggingFaceCallback(Watching, TrainerCallback):
    """A transformers.TrainerCallback that watches the Trainer's optimizer. Arguments: StepsizeMonitor's.

    The Trainer tells no callback that training has raised: then the monitor is closed when the next one
    begins, and what was recorded before is written already, but for what is still under way from a device.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begin([kwargs["optimizer"]], kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()
