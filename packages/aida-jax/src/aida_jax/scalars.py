"""The scalars of a step, exact in float32 too: 1 - b**t as it is written loses 5 of 7 digits at t = 1."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from . import family

# y/2 - y^2/12 + ..., by which 1 - y/(e^y - 1) begins: the Bernoulli numbers B_n/n!, negated.
_SERIES = {1: 1 / 2, 2: -1 / 12, 4: 1 / 720, 6: -1 / 30240, 8: 1 / 1209600, 10: -1 / 47900160}


def step_scalars(
    count: Any, *, b1: Any, b2: Any, eps: Any, eps_out: Any, rectify: bool
) -> tuple[Any, Any, Any, Any]:
    """family.step_scalars of step `count` with lr = 1, in the widest float type that is enabled."""
    wide = jnp.result_type(float)
    t = jnp.asarray(count, wide)
    b1, b2, eps, eps_out = (x.astype(wide) if isinstance(x, jax.Array) else x for x in (b1, b2, eps, eps_out))
    rho = rectified_length(b2, t) if rectify else None
    bias1, bias2 = bias_correction(b1, t), bias_correction(b2, t)
    if isinstance(eps, jax.Array):  # one that was held in float16 may be 0
        eps = jnp.maximum(eps, jnp.finfo(jnp.float32).tiny)
    return family.corrected_scalars(bias1, bias2, rho, lr=1.0, b2=b2, eps=eps, eps_out=eps_out)


def bias_correction(b: Any, t: jax.Array) -> jax.Array:
    """1 - b^t, to the precision of t's type."""
    return -jnp.expm1(t * _log(b))


def rectified_length(b2: Any, t: jax.Array) -> jax.Array:
    """rho = 2/(1-b2) - 1 - 2t*b2^t/(1-b2^t), the two large terms taken off each other beforehand.

    With L = -log(b2) and y = t*L, it is (2/(1-b2) - 1 - 2/L) + (2/L)*(1 - y/(e^y - 1)).
    """
    rate = -_log(b2)
    y = t * rate
    small = jnp.minimum(y, 0.3)
    series = sum(factor * small**n for n, factor in _SERIES.items())
    large = jnp.clip(y, 0.3, 80.0)  # where it ends, the quotient is 0 to any precision
    large = 1 - large / jnp.expm1(large)
    return _offset(b2, rate) + 2 / rate * jnp.where(y < 0.3, series, large)


def _offset(b2: Any, rate: Any) -> Any:
    """2/(1-b2) - 1 - 2/L; by its own series where b2 is an array, whose type may not hold the difference."""
    q = 1 - b2
    exact = 2 / q - 1 - 2 / rate
    if isinstance(b2, int | float):
        return exact
    return jnp.where(q < 0.03, q / 6 + q * q / 12 + 19 / 360 * q**3, exact)


def _log(b: Any) -> Any:
    if isinstance(b, int | float):
        return math.log(b) if b else -math.inf
    return jnp.log(b)
