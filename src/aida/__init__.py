"""Layerwise adaptive optimizers for PyTorch: Aida (arXiv 2203.13273) and its family."""

from .check import check_member
from .convert import convert_state
from .optimizers import AdaBelief, AdamPlus, Aida, LAdaBelief, LAdam, LAida
from .optimizers.base import Layerwise
from .optimizers.create import create_optimizer, optimizer_names
from .optimizers.hyperparameter import Hyperparameter
from .optimizers.release import release_gradients
from .presets import presets
from .sharding import fsdp_groups
from .tuning import KScheduler, eps_for_cap

__version__ = "0.1.0"

__all__ = [
    "AdaBelief",
    "AdamPlus",
    "Aida",
    "Hyperparameter",
    "KScheduler",
    "LAdaBelief",
    "LAdam",
    "LAida",
    "Layerwise",
    "check_member",
    "convert_state",
    "create_optimizer",
    "eps_for_cap",
    "fsdp_groups",
    "optimizer_names",
    "presets",
    "release_gradients",
]
