from .. import family
from .base import Layerwise, Options


class LAdam(Layerwise):
    """Adam with one stepsize a layer.

    "pre":  v <- b2*v + (1-b2)*mean(g^2), one number;  u = 1/sqrt(v/(1-b2^t) + eps/(1-b2))
    "post": v elementwise as in AdamPlus;  u = the mean of 1/sqrt(v/(1-b2^t) + eps/(1-b2)) where v > 0
    p <- p - lr/(1-b1^t) * u * m

    Source: arXiv 2203.13273. "pre" is published code; "post" is only named there, and this mean of the
    elementwise stepsizes is our reading of it. So is leaving out elements with v = 0: they do not move, and
    their u, the largest that eps allows, would move an embedding of which a step uses a few rows 20 times as
    far as "pre" does. Where every v is 0, u is theirs.
    """

    rule = family.GRADIENT
    own = Options(layerwise="pre")
