"""An optimizer is a chain: a member's scaling, decoupled weight decay, the learning rate."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..settings import INJECTED, Member, check_number


def optimizer(
    scaled: optax.GradientTransformationExtraArgs, learning_rate: Any, weight_decay: Any, mask: Any
) -> optax.GradientTransformationExtraArgs:
    """Scaling, decoupled weight decay, and the learning rate with its sign."""
    assert isinstance(scaled, Member)
    check_number("learning_rate", learning_rate, lambda x: True, "finite, or a schedule, as 1e-3 is", True)
    check_number("weight_decay", weight_decay, lambda x: x >= 0, "0 or above, as 0.01 is", True)
    if isinstance(mask, bool | np.bool_) or (isinstance(mask, jax.Array | np.ndarray) and not mask.ndim):
        raise TypeError(
            f"mask is {mask!r}, one answer for all leaves; it must be a tree of booleans, or a function of "
            f"the parameters that gives one: {INJECTED}"
        )
    none = isinstance(weight_decay, int | float) and weight_decay == 0
    decay = optax.identity() if none else optax.add_decayed_weights(weight_decay, mask)
    chained = optax.chain(scaled, decay, optax.scale_by_learning_rate(learning_rate))

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        changed, state = chained.update(updates, state, params, **extra_args)
        # Decay and learning rate may be of a wider type than the gradients.
        return jax.tree.map(lambda x, g: x.astype(jnp.result_type(g)), changed, updates), state

    return Member.made(chained.init, update, scaled.settings, learning_rate)
