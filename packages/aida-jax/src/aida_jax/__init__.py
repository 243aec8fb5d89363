"""Layerwise adaptive optimizers for JAX: Aida (arXiv 2203.13273) and its family, as optax transformations."""

from . import monitor
from .convert import state_from_torch, state_to_torch
from .members import (
    adabelief,
    adam_plus,
    aida,
    ladabelief,
    ladam,
    laida,
    scale_by_adabelief,
    scale_by_adam_plus,
    scale_by_aida,
    scale_by_ladabelief,
    scale_by_ladam,
    scale_by_laida,
)
from .rows import layer_stepsizes
from .settings import static_args
from .transform import ScaleByAidaState, scale_by_layerwise

__version__ = "0.1.0"

__all__ = [
    "ScaleByAidaState",
    "adabelief",
    "adam_plus",
    "aida",
    "ladabelief",
    "ladam",
    "laida",
    "layer_stepsizes",
    "monitor",
    "scale_by_adabelief",
    "scale_by_adam_plus",
    "scale_by_aida",
    "scale_by_ladabelief",
    "scale_by_ladam",
    "scale_by_laida",
    "scale_by_layerwise",
    "state_from_torch",
    "state_to_torch",
    "static_args",
]
