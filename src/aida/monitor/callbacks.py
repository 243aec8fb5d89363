"""StepsizeMonitor for trainers that own the loop, which are imported only when their callback is asked for.

    Trainer(..., callbacks=[huggingface_callback(every=100, to=[TensorBoard("runs")])])
    pytorch_lightning.Trainer(..., callbacks=[lightning_callback(every=100, to=[JSONL("stepsizes.jsonl")])])

The arguments are StepsizeMonitor's, without optimizer and model. The monitor is the callback's `monitor` from
the beginning of training on; it is closed when training ends. With several optimizers (Lightning alone) each
has its own, in `monitors`, and sinks are shared.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .watch import StepsizeMonitor


def huggingface_callback(**arguments: Any) -> Any:
    """A transformers.TrainerCallback that watches the Trainer's optimizer."""
    from transformers import TrainerCallback

    class StepsizeCallback(TrainerCallback):
        monitor: StepsizeMonitor | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            optimizer = kwargs["optimizer"]
            optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
            self.monitor = StepsizeMonitor(optimizer, kwargs["model"], **arguments)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.monitor is not None:
                self.monitor.close()

    return StepsizeCallback()


def lightning_callback(**arguments: Any) -> Any:
    """A Callback of pytorch_lightning or lightning, whichever is there, that watches the optimizers."""
    try:
        trainer_library: Any = import_module("lightning.pytorch")
    except ImportError:
        trainer_library = import_module("pytorch_lightning")

    class StepsizeCallback(trainer_library.Callback):
        monitors: tuple[StepsizeMonitor, ...] = ()

        @property
        def monitor(self) -> StepsizeMonitor:
            return self.monitors[0]

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.monitors = tuple(StepsizeMonitor(o, pl_module, **arguments) for o in trainer.optimizers)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            for monitor in self.monitors:
                monitor.close()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self.on_train_end(trainer, pl_module)

    return StepsizeCallback()
