from .. import family
from .base import Layerwise


class AdaBelief(Layerwise):
    """Stepsizes from the variance of the gradient about its momentum: r = m - g.

        m <- b1*m + (1-b1)*g
        v <- b2*v + (1-b2)*(m - g)^2
        p <- p - lr/(1-b1^t) * m / (sqrt(v/(1-b2^t) + eps/(1-b2)) + eps)

    With rectify=True it is the published rectified step; a step is never taken without the factor then.
    Gradients that are thresholded make m - g zero: eps caps the stepsize at sqrt((1-b2)/eps). It has the
    state and about the cost of Adam. It has no arguments of its own.

    Source: arXiv 2010.07468, the published code, with its eps both inside and outside the root.

    Example:
        >>> import aida, torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = aida.AdaBelief(model.parameters(), **aida.presets("transformer"), rectify=True)
        >>> model(torch.ones(4, 3)).square().mean().backward()
        >>> optimizer.step()
    """

    rule = family.BELIEF
    eps_outside = True
