"""Members of a user's own that the tests share: one with hyperparameters, one whose rule mixes layers."""

from typing import ClassVar

import aida
from aida import Hyperparameter


class Damped(aida.Layerwise):
    """The momentum's share of the layer's energy, to a power."""

    own: ClassVar = dict(
        power=Hyperparameter(1.0, ge=0, le=4), side=Hyperparameter("both", choices=("both", "m"))
    )

    @staticmethod
    def rule(gg, mm, *, power, side):
        beta = (mm / (mm + gg + 1e-30)) ** power
        return (1.0 if side == "m" else beta), beta


class Mixing(aida.Layerwise):
    """Every layer by the mean of all, and by its neighbour."""

    mixes_layers = True

    @staticmethod
    def rule(gg, gm, mm):
        return gg / (gg.mean() + gg + 1e-30), mm.roll(1) / (mm + mm.roll(1) + 1e-30)


def made(**attributes):
    """A class with these attributes, called Mine."""
    return type("Mine", (aida.Layerwise,), attributes)
