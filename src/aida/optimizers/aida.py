from .. import family
from .base import Layerwise, Options


class Aida(Layerwise):
    """AdaBelief whose gradients and momenta are first projected onto each other, K times, layer by layer.

    (alpha, beta) from K mutual projections;  v <- b2*v + (1-b2)*(beta*m - alpha*g)^2
    p <- p - lr/(1-b1^t) * m / sqrt(v/(1-b2^t) + eps/(1-b2))

    Even K gives the residual cos^K(theta)*(m - g), theta the layer's angle between g and m; K=0 AdaBelief's.
    eps caps the stepsize at sqrt((1-b2)/eps). Other arguments: Options.
    Source: arXiv 2203.13273. The published code adds eps into v at every step; here v is stored without it,
    which gives the same parameters, and `p.grad` is left alone by weight decay.
    """

    rule = staticmethod(family.projection)
    own = Options(K=2, xi=1e-20)
