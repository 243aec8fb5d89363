from .. import family
from .base import Layerwise


class AdaBelief(Layerwise):
    """Stepsizes from the variance of the gradient about its momentum.

    v <- b2*v + (1-b2)*(m - g)^2
    p <- p - lr/(1-b1^t) * m / (sqrt(v/(1-b2^t) + eps/(1-b2)) + eps)

    rectify=True gives the published rectified step; a member never steps without rectification's factor then.
    Gradients that are thresholded make m - g zero: eps caps the stepsize at sqrt((1-b2)/eps).
    Source: arXiv 2010.07468, published code, with its eps both inside and outside the root.
    """

    rule = family.BELIEF
    eps_outside = True
