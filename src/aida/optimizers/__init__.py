from .adabelief import AdaBelief
from .adamplus import AdamPlus
from .aida import Aida
from .ladabelief import LAdaBelief
from .ladam import LAdam
from .laida import LAida

__all__ = ["AdaBelief", "AdamPlus", "Aida", "LAdaBelief", "LAdam", "LAida"]
