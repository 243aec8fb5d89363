from .. import family
from .base import Layerwise, Options


class LAida(Layerwise):
    """Aida with one stepsize a layer: the free cells of the family's table.

    (alpha, beta) from K mutual projections, r = beta*m - alpha*g
    "pre":  v <- b2*v + (1-b2)*mean(r^2), one number;  u = 1/sqrt(v/(1-b2^t) + eps/(1-b2))
    "post": v elementwise;  u = the mean of 1/sqrt(v/(1-b2^t) + eps/(1-b2)) where v > 0, as in LAdam
    p <- p - lr/(1-b1^t) * u * m

    Not in arXiv 2203.13273, whose rules it combines.
    """

    rule = staticmethod(family.projection)
    own = Options(K=2, xi=1e-20, layerwise="pre")
