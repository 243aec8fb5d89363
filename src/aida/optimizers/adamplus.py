from .. import family
from .base import Layerwise


class AdamPlus(Layerwise):
    """Adam with eps inside the root, as the rest of the family has it: r = g.

        m <- b1*m + (1-b1)*g
        v <- b2*v + (1-b2)*g^2
        p <- p - lr/(1-b1^t) * m / sqrt(v/(1-b2^t) + eps/(1-b2))

    It needs no sums of layers, and has the state and the cost of Adam. It has no arguments of its own.

    Source: "Adam+" in arXiv 2203.13273, the control that differs from Aida in the residual alone.

    Example:
        >>> import aida, torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = aida.AdamPlus(model.parameters(), lr=1e-3, weight_decay=1e-2)
        >>> model(torch.ones(4, 3)).square().mean().backward()
        >>> optimizer.step()
    """

    rule = family.GRADIENT
