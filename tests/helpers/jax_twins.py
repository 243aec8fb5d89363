"""A member of the torch side and the same member of aida_jax, with the same numbers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import torch

import aida
import aida_jax

TWINS = {
    "AdamPlus": aida_jax.adam_plus,
    "AdaBelief": aida_jax.adabelief,
    "LAdam": aida_jax.ladam,
    "LAdaBelief": aida_jax.ladabelief,
    "Aida": aida_jax.aida,
    "LAida": aida_jax.laida,
}
# Every member in every form that both sides have.
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("AdamPlus", {}),
    ("AdaBelief", {}),
    ("Aida", {}),
    *((name, {"layerwise": how}) for name in ("LAdam", "LAdaBelief", "LAida") for how in ("pre", "post")),
]


def twins(
    name: str,
    params: dict[str, np.ndarray],
    lr: float,
    betas: tuple[float, float],
    decay: float = 0.0,
    decoupled: bool = False,
    **arguments: Any,
) -> tuple[Any, Any, dict[str, torch.nn.Parameter]]:
    """(the torch optimizer, the optax one, the torch parameters by name); names are in sorted order."""
    of_torch = {k: torch.nn.Parameter(torch.tensor(x)) for k, x in sorted(params.items())}
    more = dict(weight_decay=decay, decoupled_weight_decay=decoupled, foreach=False, **arguments)
    one = getattr(aida, name)(of_torch.items(), lr=lr, betas=betas, **more)
    other = TWINS[name](lr, *betas, weight_decay=decay if decoupled else 0.0, **arguments)
    return one, optax.chain(optax.add_decayed_weights(0.0 if decoupled else decay), other), of_torch


def steps(
    one: Any, other: Any, of_torch: dict[str, Any], params: Any, state: Any, update: Any, gradients: Any
) -> Any:
    """Step both with the same gradients; (params, state) of the optax side."""
    for grads in gradients:
        for name, p in of_torch.items():
            p.grad = torch.tensor(grads[name], dtype=p.dtype)
        one.step()
        updates, state = update({k: jnp.asarray(x) for k, x in grads.items()}, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def apart(of_torch: dict[str, Any], params: Any) -> float:
    """The largest difference between the sides' parameters, as a part of each layer's largest element."""
    found = [0.0]
    for name, p in of_torch.items():
        ours, theirs = np.asarray(params[name]), p.detach().numpy()
        found.append(float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
    return max(found)
