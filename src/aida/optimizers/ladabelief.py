from .. import family
from .base import Layerwise
from .options import Options


class LAdaBelief(Layerwise):
    """AdaBelief with one stepsize per layer: r = m - g.

        m <- b1*m + (1-b1)*g
        "pre":  v <- b2*v + (1-b2)*mean((m - g)^2), one number
                u = 1/sqrt(v/(1-b2^t) + eps/(1-b2))
        "post": v <- b2*v + (1-b2)*(m - g)^2, for each weight
                u = the mean of 1/sqrt(v/(1-b2^t) + eps/(1-b2)) over the weights with v > 0
        p <- p - lr/(1-b1^t) * u * m

    Arguments:
        layerwise: "pre" keeps one number v per layer, half of Adam's state; "post" keeps v for each weight
            and reads the layer once more. Default: "pre".

    Source: arXiv 2203.13273. "post" is our reading, as in LAdam. No eps outside the root, unlike AdaBelief.

    Example:
        >>> import aida, torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = aida.LAdaBelief(model.parameters(), lr=1e-3)
        >>> model(torch.ones(4, 3)).square().mean().backward()
        >>> optimizer.step()
        >>> optimizer.state[model.weight]["exp_avg_var"].shape
        torch.Size([])
    """

    rule = family.BELIEF
    own = Options(layerwise="pre")
