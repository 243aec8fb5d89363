"""The members of the family, each a rule and its defaults."""

from .adabelief import adabelief, ladabelief, scale_by_adabelief, scale_by_ladabelief
from .adam import adam_plus, ladam, scale_by_adam_plus, scale_by_ladam
from .aida import aida, laida, scale_by_aida, scale_by_laida

__all__ = [
    "adabelief",
    "adam_plus",
    "aida",
    "ladabelief",
    "ladam",
    "laida",
    "scale_by_adabelief",
    "scale_by_adam_plus",
    "scale_by_aida",
    "scale_by_ladabelief",
    "scale_by_ladam",
    "scale_by_laida",
]
