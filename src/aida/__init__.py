"""Layerwise adaptive optimizers for PyTorch: Aida (arXiv 2203.13273) and its family."""

from .optimizers import AdaBelief, AdamPlus, Aida, LAdaBelief, LAdam, LAida
from .optimizers.create import create_optimizer, optimizer_names
from .presets import presets

__version__ = "0.1.0"

__all__ = [
    "AdaBelief",
    "AdamPlus",
    "Aida",
    "LAdaBelief",
    "LAdam",
    "LAida",
    "create_optimizer",
    "optimizer_names",
    "presets",
]
