from typing import Any, ClassVar

from .. import family
from .base import Layerwise
from .hyperparameter import Hyperparameter


class Aida(Layerwise):
    """AdaBelief whose gradients and momenta are first projected onto each other, K times, layer by layer.

        m <- b1*m + (1-b1)*g
        v <- b2*v + (1-b2)*(beta*m - alpha*g)^2,   (alpha, beta) from K mutual projections
        p <- p - lr/(1-b1^t) * m / sqrt(v/(1-b2^t) + eps/(1-b2))

    With theta the layer's angle between g and m, even K give the residual cos^K(theta)*(m - g). So stepsizes
    vary less within a layer and between layers; K=0 is AdaBelief's residual. It has the state of Adam, and
    reads gradient and momentum twice.

    Arguments:
        K: number of projections, an integer from 0 to 64; its cost hardly depends on K. Default: 2.
        xi: above 0; added to what a projection divides by, so that a zero gradient does not give 0/0.
            Default: 1e-20.

    Source: arXiv 2203.13273. The published code adds eps into v at every step; here v is stored without it,
    which gives the same parameters, and `p.grad` is left alone by weight decay.

    Example:
        >>> import aida, torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = aida.Aida(model.parameters(), lr=1e-3, K=2)
        >>> model(torch.ones(4, 3)).square().mean().backward()
        >>> optimizer.step()
        >>> optimizer.state[model.weight]["exp_avg_var"].shape
        torch.Size([2, 3])
    """

    rule = staticmethod(family.projection)
    own: ClassVar[Any] = dict(
        K=Hyperparameter(2, ge=0, le=64),  # the recurrence is at its limit long before 64
        xi=Hyperparameter(1e-20, gt=0, reason="it keeps a zero gradient from giving 0/0"),
    )
