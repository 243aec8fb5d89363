from .. import family
from .base import Layerwise
from .options import Options


class LAdam(Layerwise):
    """Adam with one stepsize per layer: r = g.

        m <- b1*m + (1-b1)*g
        "pre":  v <- b2*v + (1-b2)*mean(g^2), one number
                u = 1/sqrt(v/(1-b2^t) + eps/(1-b2))
        "post": v <- b2*v + (1-b2)*g^2, for each weight
                u = the mean of 1/sqrt(v/(1-b2^t) + eps/(1-b2)) over the weights with v > 0
        p <- p - lr/(1-b1^t) * u * m

    Arguments:
        layerwise: "pre" keeps one number v per layer, half of Adam's state; "post" keeps v for each weight
            and reads the layer once more. Default: "pre".

    Source: arXiv 2203.13273. "pre" is published code; "post" is only named
    there, and this mean of the elementwise stepsizes is our reading of it. So is leaving out elements with
    v = 0: they do not move, and their u, the largest that eps allows, would move an embedding of which a step
    uses a few rows 20 times as far as "pre" does. Where every v is 0, u is theirs.

    Example:
        >>> import aida, torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = aida.LAdam(model.parameters(), lr=1e-3)
        >>> model(torch.ones(4, 3)).square().mean().backward()
        >>> optimizer.step()
        >>> optimizer.state[model.weight]["exp_avg_var"].shape
        torch.Size([])
    """

    rule = family.GRADIENT
    own = Options(layerwise="pre")
