from .. import family
from .base import Layerwise


class AdamPlus(Layerwise):
    """Adam with eps inside the root, as the rest of the family has it.

    v <- b2*v + (1-b2)*g^2
    p <- p - lr/(1-b1^t) * m / sqrt(v/(1-b2^t) + eps/(1-b2))

    Source: "Adam+" in arXiv 2203.13273, the control that differs from Aida in the residual alone.
    """

    rule = family.GRADIENT
