"""Layerwise adaptive optimizers for PyTorch: Aida (arXiv 2203.13273) and its family."""

from .optimizers import AdaBelief, AdamPlus, Aida, LAdaBelief, LAdam, LAida
from .optimizers.create import create_optimizer, optimizer_names
from .optimizers.release import release_gradients
from .presets import presets
from .sharding import fsdp_groups

__version__ = "0.1.0"

__all__ = [
    "AdaBelief",
    "AdamPlus",
    "Aida",
    "LAdaBelief",
    "LAdam",
    "LAida",
    "create_optimizer",
    "fsdp_groups",
    "optimizer_names",
    "presets",
    "release_gradients",
]
