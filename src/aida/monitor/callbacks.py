"""The former place of the trainers' callbacks, which are aida.integrations.{transformers,lightning} now."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

MOVED = {"HuggingFaceCallback": "transformers", "LightningCallback": "lightning"}


def huggingface_callback(**arguments: Any) -> Any:
    """aida.integrations.transformers.StepsizeCallback(**arguments)."""
    return __getattr__("HuggingFaceCallback")(**arguments)


def lightning_callback(**arguments: Any) -> Any:
    """aida.integrations.lightning.StepsizeCallback(**arguments)."""
    return __getattr__("LightningCallback")(**arguments)


def __getattr__(name: str) -> Any:
    if name not in MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = f"aida.integrations.{MOVED[name]}"
    warnings.warn(
        f"aida.monitor.callbacks.{name} has moved: use {place}.StepsizeCallback",
        DeprecationWarning,
        stacklevel=3,
    )
    return import_module(place).StepsizeCallback
