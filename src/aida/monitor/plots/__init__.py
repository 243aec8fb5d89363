"""Pictures of a monitor's rows, with matplotlib, which is imported where a picture is drawn.

Every function takes the rows of one run, or {name: rows} to put several runs side by side, and returns a
matplotlib Figure. Rows of one layer and time, such as those of several seeds, are averaged. The time is the
epoch if every row has one, else the step. Raises Missing, which names the field, where there is nothing to
draw. Colours: runs have Okabe and Ito's palette, and line styles besides; layers are coloured by depth and
positive measures by value in viridis, signed ones in PuOr. All keep their order without red-green vision.
"""

from .distribution import heat_map, ridges
from .lines import by_layer, spread, stepsizes
from .measures import MEASURES
from .series import Layer, Missing, layers

__all__ = [
    "MEASURES", "Layer", "Missing", "by_layer", "heat_map", "layers", "ridges", "spread", "stepsizes",
]  # fmt: skip
