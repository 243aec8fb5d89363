from typing import Any, ClassVar

from .. import family
from .aida import Aida
from .base import Layerwise


class LAida(Layerwise):
    """Aida with one stepsize per layer: the free cells of the family's table.

        m <- b1*m + (1-b1)*g
        "pre":  v <- b2*v + (1-b2)*mean(r^2), one number
                u = 1/sqrt(v/(1-b2^t) + eps/(1-b2))
        "post": v <- b2*v + (1-b2)*r^2, for each weight
                u = the mean of 1/sqrt(v/(1-b2^t) + eps/(1-b2)) over the weights with v > 0
        p <- p - lr/(1-b1^t) * u * m

    with r = beta*m - alpha*g, and (alpha, beta) from K mutual projections.

    Arguments:
        K: number of projections, an integer from 0 to 64; its cost hardly depends on K. Default: 2.
        xi: above 0; added to what a projection divides by, so that a zero gradient does not give 0/0.
            Default: 1e-20.
        layerwise: "pre" keeps one number v per layer, half of Adam's state; "post" keeps v for each weight
            and reads the layer once more. Default: "pre".

    Source: none; arXiv 2203.13273 has the rules that it combines. For "post" see LAdam.

    Example:
        >>> import aida, torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = aida.LAida(model.parameters(), lr=1e-3, K=2)
        >>> model(torch.ones(4, 3)).square().mean().backward()
        >>> optimizer.step()
        >>> optimizer.state[model.weight]["exp_avg_var"].shape
        torch.Size([])
    """

    rule = staticmethod(family.projection)
    own: ClassVar[Any] = dict(**Aida.hyperparameters, layerwise="pre")
