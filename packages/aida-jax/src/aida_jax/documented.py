"""What the arguments of the members mean, told once and shown in every docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from textwrap import indent
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

MEANINGS = """
learning_rate: a number, an array, or a schedule: a function of the steps taken before.
b1: decay rate of m, in [0, 1). Default: 0.9.
b2: decay rate of v, in [0, 1). Default: 0.999.
eps: above 0. Inside the root it caps u at sqrt((1-b2)/eps), 316 at the default. Default: 1e-8.
K: number of projections, a Python integer from 0 to 64; its cost hardly depends on K. Default: 2.
xi: above 0; added to what a projection divides by, so that a zero gradient does not give 0/0.
    Default: 1e-20.
mu_dtype: the type in which m is stored, such as jnp.bfloat16; v and all sums are of float32 at least.
    Default: None, the parameter's type, float32 at least.
weight_decay: decoupled, as optax.adamw has it: learning_rate*weight_decay*p is taken off p, too. For a
    coupled one chain optax.add_decayed_weights before the optimizer. Default: 0.0.
mask: the leaves that decay: a tree of booleans, or a function of the parameters that gives one.
    Default: None, all.
layerwise: one stepsize per layer. "pre": v is one number per layer, which halves the state; "post": v has
    an entry for each weight, and u is the mean of theirs. Default: {layerwise}.
rectify: RAdam's factor on the update (arXiv 1908.03265); u is 1 while the variance is intractable.
    Default: False.
layers: a function of a leaf's path, such as "blocks/kernel", that gives how many of its leading axes count
    layers, as the first does that flax.linen.scan adds. Default: None, a leaf is one layer.
axis_name: inside jax.shard_map, the axes of the mesh that split layers: a name, several, or a function of a
    leaf's path that gives them; () where every piece is a layer of its own. Under jit sums are of whole
    arrays without it. Default: None.
"""

TAIL = """
A layer is a leaf; a complex one is a layer of its real and imaginary parts, as on the torch side, and v has
both. Updates have the type of the gradients. Under optax.inject_hyperparams, which would call mask and layers
as schedules, give static_args=aida_jax.static_args(function). Raises ValueError or TypeError for an argument
that cannot be used and for a leaf without gradients, such as one of integers.
"""


def documented(function: F) -> F:
    """Add to a docstring what the function's arguments mean, but those of which it tells itself."""
    doc = inspect.cleandoc(function.__doc__ or "")
    head, _, rest = doc.partition("\nReturns ")
    head, _, own = head.partition("\nArguments:\n")
    meanings = {
        text.partition(":")[0]: text for text in [*_entries(MEANINGS), *_entries(inspect.cleandoc(own))]
    }
    parameters = inspect.signature(function).parameters
    told = "\n".join(meanings[name] for name in parameters)
    told = told.replace(
        "{layerwise}", repr(parameters["layerwise"].default) if "layerwise" in parameters else ""
    )
    function.__doc__ = f"{head}\nArguments:\n{indent(told, '    ')}\n{TAIL}\nReturns {rest}\n"
    return function


def _entries(text: str) -> list[str]:
    """Each begins at the margin and goes on indented."""
    return re.split(r"\n(?=\S)", text.strip("\n"))
