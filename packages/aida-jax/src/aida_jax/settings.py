"""What a member's transformation is made with, checked; and the transformation that remembers it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

SUMS = ("gg", "gm", "mm", "dd")
STATIC = ("rule", "K", "mu_dtype", "mask", "layers", "axis_name")
INJECTED = "under optax.inject_hyperparams give static_args=aida_jax.static_args(aida_jax.aida)"


def static_args(function: Callable[..., Any]) -> tuple[str, ...]:
    """Which arguments of a member optax.inject_hyperparams has to leave alone.

    It calls every other function that it is given, and every type, as a schedule.

    Arguments:
        function: a function of this package that makes a transformation, such as aida_jax.aida.

    Returns their names, for its argument static_args. Raises TypeError for what is no function.

    Example:
        >>> import aida_jax, jax.numpy as jnp, optax
        >>> inject = optax.inject_hyperparams(aida_jax.aida, static_args=aida_jax.static_args(aida_jax.aida))
        >>> optimizer = inject(learning_rate=1e-3, weight_decay=0.1, mask=lambda params: {"kernel": True})
        >>> state = optimizer.init({"kernel": jnp.ones((3, 2))})
        >>> state.hyperparams["learning_rate"] = jnp.asarray(1e-4)
    """
    parameters = inspect.signature(function).parameters
    return tuple(name for name in STATIC if name in parameters)


@dataclass(frozen=True, eq=False, kw_only=True)
class Settings:
    """The arguments of scale_by_layerwise; numbers that are arrays are not checked."""

    rule: Any
    b1: Any
    b2: Any
    eps: Any
    mu_dtype: Any
    eps_out: Any
    layerwise: str | None
    rectify: bool
    layers: Any
    axis_name: Any

    def __post_init__(self) -> None:
        for name in ("b1", "b2"):
            check_number(name, getattr(self, name), lambda x: 0 <= x < 1, "in [0, 1), as 0.9 is")
        positive = "above 0, such as 1e-8, since it bounds the stepsize by sqrt((1-b2)/eps)"
        check_number("eps", self.eps, lambda x: x > 0, positive)
        check_number("eps_out", self.eps_out, lambda x: x >= 0, "0 or above, as 1e-8 is")
        if self.layerwise not in (None, "pre", "post"):
            raise ValueError(f"Invalid layerwise: {self.layerwise!r}; it must be None, 'pre' or 'post'")
        if not isinstance(self.rectify, bool):
            raise TypeError(f"rectify is {self.rectify!r}; it must be True or False, and is never traced")
        if self.mu_dtype is not None and not _is_type_of_floats(self.mu_dtype):
            raise TypeError(
                f"mu_dtype is {self.mu_dtype!r}; it must be a type of real floats, as jnp.bfloat16 "
                f"is: {INJECTED}"
            )
        if self.layers is not None and not callable(self.layers):
            raise TypeError(
                f"layers is {self.layers!r}; it must be a function of a leaf's path that gives how many of "
                f"its leading axes count layers: {INJECTED}"
            )
        object.__setattr__(self, "sums", rule_sums(self.rule) if callable(self.rule) else ())
        if not callable(self.rule):
            object.__setattr__(self, "rule", _constant(self.rule))

    sums: tuple[str, ...] = ()  # that the rule takes, where it is a function


class Member(optax.GradientTransformationExtraArgs):
    """A transformation with the settings that it is made with, which layer_stepsizes needs."""

    settings: Settings
    learning_rate: Any = None

    @classmethod
    def made(cls, init: Any, update: Any, settings: Settings, learning_rate: Any = None) -> Member:
        """A member whose update ends with this learning rate, if there is one."""
        member = cls(init, update)
        member.settings, member.learning_rate = settings, learning_rate
        return member

    def _replace(self, **changed: Any) -> Member:  # type: ignore[override]
        """As a named tuple's, and the settings stay."""
        return self.made(*super()._replace(**changed), self.settings, self.learning_rate)


def check_number(
    name: str, x: Any, fits: Callable[[float], bool], wanted: str, takes_schedules: bool = False
) -> None:
    """Raise ValueError for a plain number that does not fit; an array may be traced and passes."""
    if isinstance(x, jax.Array | np.ndarray) or (takes_schedules and callable(x)):
        return
    if callable(x):
        raise TypeError(
            f"{name} is {x!r}; it must be a number: its schedule is given through optax.inject_hyperparams"
        )
    is_number = isinstance(x, int | float | np.integer | np.floating) and not isinstance(x, bool)
    if not is_number or not (math.isfinite(float(x)) and fits(float(x))):
        raise ValueError(f"Invalid {name}: {x!r}; it must be {wanted}")


def _is_type_of_floats(dtype: Any) -> bool:
    try:
        return not isinstance(dtype, jax.Array) and bool(jnp.issubdtype(dtype, jnp.floating))
    except TypeError:
        return False


def check_projections(K: Any, xi: Any) -> None:
    """Raise TypeError for a K that is no plain integer, ValueError for a K or an xi out of range."""
    if not isinstance(K, int) or isinstance(K, bool):
        raise TypeError(
            f"K is {K!r}; it must be a Python integer, since the number of projections is compiled: "
            f"{INJECTED}"
        )
    if not 0 <= K <= 64:
        raise ValueError(f"Invalid K: {K}; it must be an integer from 0 to 64, such as 2")
    check_number("xi", xi, lambda x: x > 0, "above 0, such as 1e-20, so that a zero gradient gives no 0/0")


def check_one_per_layer(layerwise: Any) -> None:
    """Raise ValueError for a member with one stepsize per layer that is asked for another form."""
    if layerwise not in ("pre", "post"):
        raise ValueError(
            f"Invalid layerwise: {layerwise!r}; it must be 'pre' or 'post'; adam_plus, adabelief and aida "
            "have a stepsize for each weight"
        )


def rule_sums(rule: Any) -> tuple[str, ...]:
    """The sums that a rule names; TypeError where it names none, or another argument has no value."""
    parameters = inspect.signature(rule).parameters.values()
    taken = tuple(p.name for p in parameters if p.name in SUMS)
    without = [p.name for p in parameters if p.name not in SUMS and p.default is p.empty]
    if without or not taken:
        raise TypeError(
            f"the rule takes ({', '.join(p.name for p in parameters)}); it must take one or more of the sums "
            f"{', '.join(SUMS)} by name, and a value for each other argument has to be bound, as by "
            "functools.partial(rule, power=0.5)"
        )
    return taken


def _constant(rule: Any) -> tuple[float, float]:
    try:
        alpha, beta = (math.nan if isinstance(x, jax.Array) else float(x) for x in rule)
    except (TypeError, ValueError):
        alpha = beta = math.nan
    if not (math.isfinite(alpha) and math.isfinite(beta)):
        raise TypeError(
            f"the rule is {rule!r}; it must be a pair of finite numbers (alpha, beta), or a function of "
            f"{', '.join(SUMS)} that gives them: under optax.inject_hyperparams give static_args=('rule',)"
        )
    return alpha, beta
