"""An optimizer is a chain: a member's scaling, decoupled weight decay, the learning rate."""

from __future__ import annotations

from collections.abc import Callable
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
    if _is_one_answer(mask):
        raise TypeError(
            f"mask is {mask!r}, one answer for all leaves; it must be a tree of booleans, or a function of "
            f"the parameters that gives one: {INJECTED}"
        )
    none = isinstance(weight_decay, int | float) and weight_decay == 0
    of_leaves = _of_leaves(mask) if callable(mask) else mask
    decay = optax.identity() if none else optax.add_decayed_weights(weight_decay, of_leaves)
    chained = optax.chain(scaled, decay, optax.scale_by_learning_rate(learning_rate))

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        changed, state = chained.update(updates, state, params, **extra_args)
        # Decay and learning rate may be of a wider type than the gradients.
        return jax.tree.map(lambda x, g: x.astype(jnp.result_type(g)), changed, updates), state

    return Member.made(chained.init, update, scaled.settings, learning_rate)


def _of_leaves(mask: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function, which raises TypeError where it gives one answer for a whole tree."""

    def checked(params: Any) -> Any:
        answer = mask(params)
        if _is_one_answer(answer) and not jax.tree_util.all_leaves([params]):
            raise TypeError(
                f"mask gave {answer!r}, one answer for all leaves; it is a function of all parameters, not "
                "of a leaf's path, and must give a tree of booleans, as jax.tree.map(lambda p: p.ndim > 1, "
                "params) is"
            )
        return answer

    return checked


def _is_one_answer(mask: Any) -> bool:
    is_number = isinstance(mask, jax.Array | np.ndarray) and not mask.ndim
    return is_number or isinstance(mask, bool | str | np.bool_)
