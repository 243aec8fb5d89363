"""An optimizer is a chain: a member's scaling, decoupled weight decay, the learning rate."""

from __future__ import annotations

from typing import Any

import optax

from ..settings import Member


def optimizer(
    scaled: optax.GradientTransformationExtraArgs, learning_rate: Any, weight_decay: Any, mask: Any
) -> optax.GradientTransformationExtraArgs:
    """Scaling, decoupled weight decay, and the learning rate with its sign."""
    assert isinstance(scaled, Member)
    none = isinstance(weight_decay, int | float) and weight_decay == 0
    decay = optax.identity() if none else optax.add_decayed_weights(weight_decay, mask)
    chained = optax.chain(scaled, decay, optax.scale_by_learning_rate(learning_rate))
    return Member.made(chained.init, chained.update, scaled.settings, learning_rate)
