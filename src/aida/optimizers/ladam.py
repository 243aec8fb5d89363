from .. import family
from .base import Layerwise, Options


class LAdam(Layerwise):
    """Adam with one stepsize a layer.

    "pre":  v <- b2*v + (1-b2)*mean(g^2), one number;  u = 1/sqrt(v/(1-b2^t) + eps/(1-b2))
    "post": v elementwise as in AdamPlus;  u = the layer's mean of 1/sqrt(v/(1-b2^t) + eps/(1-b2))
    p <- p - lr/(1-b1^t) * u * m

    Source: arXiv 2203.13273. "pre" is published code; "post" is only named there, and this mean of the
    elementwise stepsizes is our reading of it.
    """

    rule = family.GRADIENT
    own = Options(layerwise="pre")
