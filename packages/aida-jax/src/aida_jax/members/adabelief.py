"""AdaBelief, and with one stepsize per layer."""

from __future__ import annotations

from typing import Any

import jax
import optax

from .. import family
from ..documented import documented
from ..layers import StackedAxes
from ..settings import check_one_per_layer
from ..transform import scale_by_layerwise
from .chained import optimizer


@documented
def scale_by_adabelief(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    mu_dtype: Any = None,
    *,
    rectify: bool = False,
    layers: StackedAxes | None = None,
    axis_name: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Scale by AdaBelief's stepsizes.

        update = u*m/(1-b1^t), u and m as in `adabelief`

    Returns a GradientTransformation with a ScaleByAidaState; it has no learning rate and no sign.

    Source: see `adabelief`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from aida_jax import scale_by_adabelief
        >>> optimizer = optax.chain(scale_by_adabelief(), optax.scale_by_learning_rate(1e-3))
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> updates, state = optimizer.update(params, optimizer.init(params))
        >>> int(state[0].count)
        1
    """
    return scale_by_layerwise(
        family.BELIEF, b1, b2, eps, mu_dtype, eps_out=eps, rectify=rectify, layers=layers, axis_name=axis_name
    )


@documented
def adabelief(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    mu_dtype: Any = None,
    weight_decay: jax.typing.ArrayLike = 0.0,
    mask: Any = None,
    *,
    rectify: bool = False,
    layers: StackedAxes | None = None,
    axis_name: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Stepsizes from the variance of the gradient about its momentum: r = m - g.

        m <- b1*m + (1-b1)*g
        v <- b2*v + (1-b2)*(m - g)^2
        p <- p - learning_rate*(u*m/(1-b1^t) + weight_decay*p),
        u = 1/(sqrt(v/(1-b2^t) + eps/(1-b2)) + eps)

    optax.adabelief has another eps, 1e-16 by default, and keeps it in v; here v is stored without it. With
    rectify=True it is the published rectified step.

    Returns a GradientTransformation; its state is a chain's, with a ScaleByAidaState at index 0.

    Source: arXiv 2010.07468, the published code, with its eps both inside and outside the root.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from aida_jax import adabelief
        >>> optimizer = adabelief(1e-3, eps=1e-16, rectify=True)
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> state = optimizer.init(params)
        >>> grads = jax.grad(lambda p: jnp.sum((jnp.ones((4, 3)) @ p["kernel"] + p["bias"]) ** 2))(params)
        >>> updates, state = optimizer.update(grads, state, params)
        >>> params = optax.apply_updates(params, updates)
        >>> float(params["kernel"][0, 0]) < 1
        True
    """
    scaled = scale_by_adabelief(b1, b2, eps, mu_dtype, rectify=rectify, layers=layers, axis_name=axis_name)
    return optimizer(scaled, learning_rate, weight_decay, mask)


@documented
def scale_by_ladabelief(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    mu_dtype: Any = None,
    *,
    layerwise: str = "pre",
    rectify: bool = False,
    layers: StackedAxes | None = None,
    axis_name: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Scale by LAdaBelief's stepsizes, one per layer.

        update = u*m/(1-b1^t), u and m as in `ladabelief`

    Returns a GradientTransformation with a ScaleByAidaState; it has no learning rate and no sign.

    Source: see `ladabelief`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from aida_jax import scale_by_ladabelief
        >>> optimizer = optax.chain(scale_by_ladabelief(), optax.scale_by_learning_rate(1e-3))
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> updates, state = optimizer.update(params, optimizer.init(params))
        >>> int(state[0].count)
        1
    """
    check_one_per_layer(layerwise)
    return scale_by_layerwise(
        family.BELIEF,
        b1,
        b2,
        eps,
        mu_dtype,
        layerwise=layerwise,
        rectify=rectify,
        layers=layers,
        axis_name=axis_name,
    )


@documented
def ladabelief(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    mu_dtype: Any = None,
    weight_decay: jax.typing.ArrayLike = 0.0,
    mask: Any = None,
    *,
    layerwise: str = "pre",
    rectify: bool = False,
    layers: StackedAxes | None = None,
    axis_name: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """AdaBelief with one stepsize per layer: r = m - g.

        m <- b1*m + (1-b1)*g
        "pre":  v <- b2*v + (1-b2)*mean((m - g)^2), one number
                u = 1/sqrt(v/(1-b2^t) + eps/(1-b2))
        "post": v <- b2*v + (1-b2)*(m - g)^2, for each weight
                u = the mean of 1/sqrt(v/(1-b2^t) + eps/(1-b2)) over the weights with v > 0
        p <- p - learning_rate*(u*m/(1-b1^t) + weight_decay*p)

    "pre" has half of Adam's state; "post" reads the layer once more. No eps outside the root.

    Returns a GradientTransformation; its state is a chain's, with a ScaleByAidaState at index 0.

    Source: arXiv 2203.13273. "post" is our reading, as in ladam.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from aida_jax import ladabelief
        >>> optimizer = ladabelief(1e-3)
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> state = optimizer.init(params)
        >>> grads = jax.grad(lambda p: jnp.sum((jnp.ones((4, 3)) @ p["kernel"] + p["bias"]) ** 2))(params)
        >>> updates, state = optimizer.update(grads, state, params)
        >>> params = optax.apply_updates(params, updates)
        >>> float(params["kernel"][0, 0]) < 1
        True
    """
    scaled = scale_by_ladabelief(
        b1, b2, eps, mu_dtype, layerwise=layerwise, rectify=rectify, layers=layers, axis_name=axis_name
    )
    return optimizer(scaled, learning_rate, weight_decay, mask)
