"""Aida, and with one stepsize per layer."""

from __future__ import annotations

import functools
from typing import Any

import jax
import optax

from .. import family
from ..documented import documented
from ..layers import StackedAxes
from ..quotient import divided
from ..settings import check_one_per_layer, check_projections
from ..transform import scale_by_layerwise
from .chained import optimizer


@documented
def scale_by_aida(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    K: int = 2,
    xi: jax.typing.ArrayLike = 1e-20,
    mu_dtype: Any = None,
    *,
    layerwise: str | None = None,
    rectify: bool = False,
    layers: StackedAxes | None = None,
    axis_name: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Scale by Aida's stepsizes.

        update = u*m/(1-b1^t), u and m as in `aida`

    Returns a GradientTransformation with a ScaleByAidaState; it has no learning rate and no sign.

    Source: see `aida`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from aida_jax import scale_by_aida
        >>> optimizer = optax.chain(scale_by_aida(), optax.scale_by_learning_rate(1e-3))
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> updates, state = optimizer.update(params, optimizer.init(params))
        >>> int(state[0].count)
        1
    """
    check_projections(K, xi)
    rule = divided(functools.partial(family.projection, K=K, xi=xi)) if K else family.BELIEF
    return scale_by_layerwise(
        rule, b1, b2, eps, mu_dtype, layerwise=layerwise, rectify=rectify, layers=layers, axis_name=axis_name
    )


@documented
def aida(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    K: int = 2,
    xi: jax.typing.ArrayLike = 1e-20,
    mu_dtype: Any = None,
    weight_decay: jax.typing.ArrayLike = 0.0,
    mask: Any = None,
    *,
    layerwise: str | None = None,
    rectify: bool = False,
    layers: StackedAxes | None = None,
    axis_name: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """AdaBelief whose gradients and momenta are first projected onto each other, K times, layer by layer.

        m <- b1*m + (1-b1)*g
        v <- b2*v + (1-b2)*(beta*m - alpha*g)^2,   (alpha, beta) from K mutual projections
        p <- p - learning_rate*(u*m/(1-b1^t) + weight_decay*p),
        u = 1/sqrt(v/(1-b2^t) + eps/(1-b2))

    With theta the layer's angle between g and m, even K give the residual cos^K(theta)*(m - g); K=0 is
    AdaBelief's. It has the state of Adam. layerwise makes it LAida.

    Returns a GradientTransformation; its state is a chain's, with a ScaleByAidaState at index 0.

    Source: arXiv 2203.13273. The published code adds eps into v at every step; here v is stored without it,
    which gives the same parameters.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from aida_jax import aida
        >>> optimizer = aida(optax.cosine_decay_schedule(1e-3, 100), K=2, weight_decay=1e-2)
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> state = optimizer.init(params)
        >>> grads = jax.grad(lambda p: jnp.sum((jnp.ones((4, 3)) @ p["kernel"] + p["bias"]) ** 2))(params)
        >>> updates, state = optimizer.update(grads, state, params)
        >>> params = optax.apply_updates(params, updates)
        >>> float(params["kernel"][0, 0]) < 1
        True
    """
    scaled = scale_by_aida(
        b1, b2, eps, K, xi, mu_dtype, layerwise=layerwise, rectify=rectify, layers=layers, axis_name=axis_name
    )
    return optimizer(scaled, learning_rate, weight_decay, mask)


@documented
def scale_by_laida(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    K: int = 2,
    xi: jax.typing.ArrayLike = 1e-20,
    mu_dtype: Any = None,
    *,
    layerwise: str = "pre",
    rectify: bool = False,
    layers: StackedAxes | None = None,
    axis_name: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Scale by LAida's stepsizes, one per layer.

        update = u*m/(1-b1^t), u and m as in `laida`

    Returns a GradientTransformation with a ScaleByAidaState; it has no learning rate and no sign.

    Source: see `laida`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from aida_jax import scale_by_laida
        >>> optimizer = optax.chain(scale_by_laida(), optax.scale_by_learning_rate(1e-3))
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> updates, state = optimizer.update(params, optimizer.init(params))
        >>> int(state[0].count)
        1
    """
    check_one_per_layer(layerwise)
    return scale_by_aida(
        b1, b2, eps, K, xi, mu_dtype, layerwise=layerwise, rectify=rectify, layers=layers, axis_name=axis_name
    )


@documented
def laida(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    K: int = 2,
    xi: jax.typing.ArrayLike = 1e-20,
    mu_dtype: Any = None,
    weight_decay: jax.typing.ArrayLike = 0.0,
    mask: Any = None,
    *,
    layerwise: str = "pre",
    rectify: bool = False,
    layers: StackedAxes | None = None,
    axis_name: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Aida with one stepsize per layer: the free cells of the family's table.

        m <- b1*m + (1-b1)*g
        "pre":  v <- b2*v + (1-b2)*mean(r^2), one number
                u = 1/sqrt(v/(1-b2^t) + eps/(1-b2))
        "post": v <- b2*v + (1-b2)*r^2, for each weight
                u = the mean of 1/sqrt(v/(1-b2^t) + eps/(1-b2)) over the weights with v > 0
        p <- p - learning_rate*(u*m/(1-b1^t) + weight_decay*p)

    with r = beta*m - alpha*g, and (alpha, beta) from K mutual projections.

    "pre" has half of Adam's state; "post" reads the layer once more.

    Returns a GradientTransformation; its state is a chain's, with a ScaleByAidaState at index 0.

    Source: none; arXiv 2203.13273 has the rules that it combines.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from aida_jax import laida
        >>> optimizer = laida(1e-3, K=2)
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> state = optimizer.init(params)
        >>> grads = jax.grad(lambda p: jnp.sum((jnp.ones((4, 3)) @ p["kernel"] + p["bias"]) ** 2))(params)
        >>> updates, state = optimizer.update(grads, state, params)
        >>> params = optax.apply_updates(params, updates)
        >>> float(params["kernel"][0, 0]) < 1
        True
    """
    scaled = scale_by_laida(
        b1, b2, eps, K, xi, mu_dtype, layerwise=layerwise, rectify=rectify, layers=layers, axis_name=axis_name
    )
    return optimizer(scaled, learning_rate, weight_decay, mask)
