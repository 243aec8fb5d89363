from .. import family
from .base import Layerwise, Options


class LAdaBelief(Layerwise):
    """AdaBelief with one stepsize a layer.

    "pre":  v <- b2*v + (1-b2)*mean((m - g)^2), one number;  u = 1/sqrt(v/(1-b2^t) + eps/(1-b2))
    "post": v elementwise;  u = the mean of 1/sqrt(v/(1-b2^t) + eps/(1-b2)) where v > 0, as in LAdam
    p <- p - lr/(1-b1^t) * u * m

    Source: arXiv 2203.13273. "pre" is published code; "post" is our reading, as in LAdam. No eps outside the
    root, unlike AdaBelief.
    """

    rule = family.BELIEF
    own = Options(layerwise="pre")
