"""Adam with eps inside the root, and with one stepsize per layer."""

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
def scale_by_adam_plus(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    mu_dtype: Any = None,
    *,
    rectify: bool = False,
    layers: StackedAxes | None = None,
    axis_name: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Scale by Adam's stepsizes, eps inside the root.

        update = u*m/(1-b1^t), u and m as in `adam_plus`

    Returns a GradientTransformation with a ScaleByAidaState; it has no learning rate and no sign.

    Source: see `adam_plus`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from aida_jax import scale_by_adam_plus
        >>> optimizer = optax.chain(scale_by_adam_plus(), optax.scale_by_learning_rate(1e-3))
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> updates, state = optimizer.update(params, optimizer.init(params))
        >>> int(state[0].count)
        1
    """
    return scale_by_layerwise(
        family.GRADIENT, b1, b2, eps, mu_dtype, rectify=rectify, layers=layers, axis_name=axis_name
    )


@documented
def adam_plus(
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
    """Adam with eps inside the root, as the rest of the family has it: r = g.

        m <- b1*m + (1-b1)*g
        v <- b2*v + (1-b2)*g^2
        p <- p - learning_rate*(u*m/(1-b1^t) + weight_decay*p),
        u = 1/sqrt(v/(1-b2^t) + eps/(1-b2))

    It needs no sums of layers, and has the state and the cost of Adam.

    Returns a GradientTransformation; its state is a chain's, with a ScaleByAidaState at index 0.

    Source: "Adam+" in arXiv 2203.13273, the control that differs from Aida in the residual alone.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from aida_jax import adam_plus
        >>> optimizer = adam_plus(1e-3, weight_decay=1e-2)
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> state = optimizer.init(params)
        >>> grads = jax.grad(lambda p: jnp.sum((jnp.ones((4, 3)) @ p["kernel"] + p["bias"]) ** 2))(params)
        >>> updates, state = optimizer.update(grads, state, params)
        >>> params = optax.apply_updates(params, updates)
        >>> float(params["kernel"][0, 0]) < 1
        True
    """
    scaled = scale_by_adam_plus(b1, b2, eps, mu_dtype, rectify=rectify, layers=layers, axis_name=axis_name)
    return optimizer(scaled, learning_rate, weight_decay, mask)


@documented
def scale_by_ladam(
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
    """Scale by LAdam's stepsizes, one per layer.

        update = u*m/(1-b1^t), u and m as in `ladam`

    Returns a GradientTransformation with a ScaleByAidaState; it has no learning rate and no sign.

    Source: see `ladam`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from aida_jax import scale_by_ladam
        >>> optimizer = optax.chain(scale_by_ladam(), optax.scale_by_learning_rate(1e-3))
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> updates, state = optimizer.update(params, optimizer.init(params))
        >>> int(state[0].count)
        1
    """
    check_one_per_layer(layerwise)
    return scale_by_layerwise(
        family.GRADIENT,
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
def ladam(
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
    """Adam with one stepsize per layer: r = g.

        m <- b1*m + (1-b1)*g
        "pre":  v <- b2*v + (1-b2)*mean(g^2), one number
                u = 1/sqrt(v/(1-b2^t) + eps/(1-b2))
        "post": v <- b2*v + (1-b2)*g^2, for each weight
                u = the mean of 1/sqrt(v/(1-b2^t) + eps/(1-b2)) over the weights with v > 0
        p <- p - learning_rate*(u*m/(1-b1^t) + weight_decay*p)

    "pre" has half of Adam's state; "post" reads the layer once more.

    Returns a GradientTransformation; its state is a chain's, with a ScaleByAidaState at index 0.

    Source: arXiv 2203.13273. "pre" is published code; "post" is our reading of what is only named there.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from aida_jax import ladam
        >>> optimizer = ladam(1e-3)
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> state = optimizer.init(params)
        >>> grads = jax.grad(lambda p: jnp.sum((jnp.ones((4, 3)) @ p["kernel"] + p["bias"]) ** 2))(params)
        >>> updates, state = optimizer.update(grads, state, params)
        >>> params = optax.apply_updates(params, updates)
        >>> float(params["kernel"][0, 0]) < 1
        True
    """
    scaled = scale_by_ladam(
        b1, b2, eps, mu_dtype, layerwise=layerwise, rectify=rectify, layers=layers, axis_name=axis_name
    )
    return optimizer(scaled, learning_rate, weight_decay, mask)
