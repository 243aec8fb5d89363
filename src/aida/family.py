"""The family on one page: the residual rules and the scalar mathematics of a step.

Everything here is written on + - * / and powers alone, so floats, NumPy, PyTorch and JAX arrays share it.
Letters are the paper's (arXiv 2203.13273): for one layer, gg = <g,g>, gm = <g,m>, mm = <m,m>, dd = <m-g, m-g>
with m the *updated* momentum. A rule gives (alpha, beta), and the residual is r = beta*m - alpha*g.
"""

GRADIENT = (-1.0, 0.0)  # r = g:     AdamPlus, LAdam
BELIEF = (1.0, 1.0)  # r = m - g: AdaBelief, LAdaBelief


def projection(gg, gm, mm, K, xi):
    """(alpha, beta) after K mutual projections of alpha*g and beta*m onto each other: Aida, LAida.

    The recurrence is kept, not its closed form r = cos^K(theta)*(m - g) for even K, since xi is not
    negligible where gg is small.
    """
    alpha = beta = 1.0
    for _ in range(K):
        alpha, beta = project(alpha, beta, gg, gm, mm, xi)
    return alpha, beta


def project(alpha, beta, gg, gm, mm, xi):
    """(alpha, beta) after one mutual projection of alpha*g and beta*m onto each other."""
    c = alpha * beta * gm
    return alpha * c / (alpha * alpha * gg + xi), beta * c / (beta * beta * mm + xi)


def residual_square(alpha, beta, gg, gm, dd):
    """<r, r> without the cancellation of gg - 2*gm + mm; rounding cannot make it negative.

    A factor that is the number 0 leaves its sum out: it need not have been taken, and may be infinite.
    """
    of_dd, of_difference, of_gg = residual_factors(alpha, beta)
    terms = ((of_dd, dd), (of_difference, gm - gg), (of_gg, gg))
    total = sum([factor * x for factor, x in terms if not _is_zero(factor)] or [of_gg * gg])
    return (total + abs(total)) / 2


def residual_factors(alpha, beta):
    """Those of dd, gm - gg and gg, whose sum is <r, r>."""
    k = beta - alpha
    return beta * beta, 2 * beta * k, k * k


def _is_zero(factor):
    return isinstance(factor, (int, float)) and factor == 0


def sums_needed(constant, taken, pooled):
    """Which of gg, gm, mm, dd a step asks for.

    constant: (alpha, beta), or None where they come from a function that takes the sums `taken`; pooled:
    whether <r, r> is wanted.
    """
    needed = {name: name in taken for name in ("gg", "gm", "mm", "dd")}
    if pooled:  # the terms of residual_square
        alpha, beta = constant or (1, 2)  # a function's may be any: all terms
        needed["gg"] |= alpha != beta or beta == 0
        needed["gm"] |= alpha != beta and beta != 0
        needed["dd"] |= beta != 0
    return tuple(name for name in needed if needed[name])


def stepsize_cap(eps, b2):
    """The largest stepsize u that eps allows, sqrt((1-b2)/eps): 316.23 for the defaults."""
    return ((1 - b2) / eps) ** 0.5


def step_scalars(t, *, lr, b1, b2, eps, eps_out, rectify):
    """(inv_bias2, eps_in_root, eps_out, step_size) of step t, as corrected_scalars gives them."""
    bias1, bias2 = 1 - b1**t, 1 - b2**t
    rho = 2 / (1 - b2) - 1 - 2 * t * b2**t / bias2 if rectify else None
    return corrected_scalars(bias1, bias2, rho, lr=lr, b2=b2, eps=eps, eps_out=eps_out)


def corrected_scalars(bias1, bias2, rho, *, lr, b2, eps, eps_out):
    """(inv_bias2, eps_in_root, eps_out, step_size) of a step t.

    u = 1/(sqrt(v*inv_bias2 + eps_in_root) + eps_out), and the update is p - step_size*u*m.
    bias1, bias2: 1 - b1^t and 1 - b2^t. eps_in_root = eps/(1-b2) is what adding eps into v at every step
    amounts to. rho: None, or 2/(1-b2) - 1 - 2t*b2^t/bias2 for the rectification factor of RAdam
    (arXiv 1908.03265) in step_size, as published AdaBelief applies it; while the variance is intractable
    (rho < 5), u is exactly 1.
    """
    if rho is None:
        return 1 / bias2, eps / (1 - b2), eps_out, lr / bias1
    rho_inf = 2 / (1 - b2) - 1
    on = 1.0 * (rho >= 5)
    rho, rho_inf = (on * x + (1 - on) * 5 for x in (rho, rho_inf))  # 5 and 5 give a factor of 1
    factor = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5
    return on / bias2, on * eps / (1 - b2) + (1 - on), on * eps_out / bias2**0.5, factor * lr / bias1
