"""StepsizeMonitor for trainers that own the loop, which are imported only when their callback is asked for.

    Trainer(..., callbacks=[HuggingFaceCallback(every=100, sinks=TensorBoard("runs"))])
    pytorch_lightning.Trainer(..., callbacks=[LightningCallback(every=100, sinks="stepsizes.jsonl")])

The arguments are StepsizeMonitor's, without optimizer, model and name. The monitor is the callback's
`monitor` from the beginning of training on, and None before; it is closed when training ends, is tried
again or, as far as the trainer says, raises. With several optimizers (Lightning alone) each has its own, in
`monitors`, and sinks are shared. Optimizers whose stepsizes are not known are left out, with one warning.
Each class is a module's own, so that a callback can be pickled and named in a configuration.
"""

from __future__ import annotations

from typing import Any

from .sinks import needed


def huggingface_callback(**arguments: Any) -> Any:
    """HuggingFaceCallback(**arguments), a transformers.TrainerCallback."""
    return __getattr__("HuggingFaceCallback")(**arguments)


def lightning_callback(**arguments: Any) -> Any:
    """LightningCallback(**arguments), a Callback of lightning or pytorch_lightning."""
    return __getattr__("LightningCallback")(**arguments)


def __getattr__(name: str) -> Any:
    if name == "HuggingFaceCallback":
        needed("transformers", "transformers", name)
        from .callback_huggingface import HuggingFaceCallback

        return HuggingFaceCallback
    if name == "LightningCallback":
        from .callback_lightning import LightningCallback

        return LightningCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
