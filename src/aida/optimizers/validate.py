"""The values of a parameter group: each is made a plain Python one or refused, by name, value and range."""

from __future__ import annotations

import math
import reprlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from numbers import Integral, Number
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

STATE_DTYPES = ("float32", "bfloat16", "int8")  # float16 cannot hold v, which squares gradients


class Checked(Protocol):
    """What is known of a hyperparameter."""

    def plain(self, name: str, value: Any) -> Any:
        """The value as a plain Python one. Raises ValueError where it may not be used."""
        ...


def check_group(group: dict[str, Any], own: Mapping[str, Checked]) -> None:
    """Make a merged group's values plain Python ones, in place; lr may stay a tensor of one element.

    own: the hyperparameters of the optimizer's own. What is neither one of them nor an argument that all
    members have stays as it is, but for NumPy's scalars. A group that is refused is left as it was.
    Raises ValueError for a value, RuntimeError for options that exclude each other.
    """
    plain = {k: v.item() for k, v in group.items() if isinstance(v, np.generic)}
    plain |= {name: make_plain(group[name]) for name, make_plain in PLAIN.items() if name in group}
    plain |= {name: known.plain(name, group[name]) for name, known in own.items() if name in group}
    _check_together({**group, **plain}, group.get("betas", ()))
    group.update(plain)


def state_dtype(group: Mapping[str, Any]) -> torch.dtype | None:
    """The type asked for the moments; a group holds its name alone, which every checkpoint can keep."""
    kept = group["state_dtype"]
    return getattr(torch, kept) if isinstance(kept, str) else kept


def warn_where_eps_underflows(group: Mapping[str, Any], stacklevel: int = 2) -> None:
    floor = group["eps"] / (1 - group["betas"][1])
    for p in group["params"]:
        dtype = torch.float64 if p.dtype in (torch.float64, torch.complex128) else torch.float32
        if floor < (tiny := torch.finfo(dtype).tiny):
            warnings.warn(
                f"eps={group['eps']} underflows: the step is computed in {dtype}, where eps/(1-beta2)="
                f"{floor:.1e} is below the smallest normal number, {tiny:.1e}; use a larger eps",
                stacklevel=stacklevel + 1,
            )
            return


def _check_together(group: Mapping[str, Any], betas_given: Iterable[Any]) -> None:
    foreach, fused, differentiable = (group.get(name) for name in ("foreach", "fused", "differentiable"))
    if foreach and fused:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together; leave one of them None")
    if differentiable and (foreach or fused):
        raise RuntimeError(
            f"`{'fused' if fused else 'foreach'}` does not support `differentiable`, which needs the "
            "tensor-by-tensor step: leave it None"
        )
    narrow = group.get("state_dtype") in ("bfloat16", "int8")
    if differentiable and (narrow or group.get("stochastic_rounding")):
        raise RuntimeError(
            "`differentiable` is unavailable with stochastic rounding, which has no derivative: "
            "leave `state_dtype` None and `stochastic_rounding` False"
        )
    if foreach and not group.get("capturable") and any(isinstance(b, Tensor) for b in betas_given):
        raise ValueError(
            "betas[0] as a Tensor is not supported for capturable=False and foreach=True: give two floats"
        )


def refuse(what: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"Invalid {what}: {_shown(value)}; it must be {wanted}")


def _shown(value: Any) -> str:
    """Short, as a Python literal where it is one."""
    try:
        value = value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value
    except RuntimeError:  # a tensor without values
        value = tuple(value.shape)
    return reprlib.repr(value)


def _unwrapped(value: Any) -> Any:
    """The one element of an array or tensor of any library; anything else as it is."""
    if type(value) in (float, int, bool, str):
        return value
    item = None if isinstance(value, type) else getattr(value, "item", None)
    try:
        return item() if callable(item) else value
    except (ValueError, TypeError, RuntimeError):  # of more than one element, or none
        return value


def _float(value: Any) -> float:
    """The one real number that value is, or nan, which no range has."""
    if type(value) is float:
        return value
    value = _unwrapped(value)
    if isinstance(value, bool | str) or not isinstance(value, Number):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):  # complex, a signalling nan, an integer of 400 digits
        return math.nan


def real(what: str, fits: Callable[[float], bool], wanted: str, value: Any) -> float:
    x = _float(value)
    if not (math.isfinite(x) and fits(x)):
        raise refuse(what, value, wanted)
    return x


def integer(what: str, fits: Callable[[int], bool], wanted: str, value: Any) -> int:
    x = value if type(value) is int else _unwrapped(value)
    if not isinstance(x, Integral) or isinstance(x, bool) or not fits(int(x)):
        raise refuse(what, value, wanted)
    return int(x)


def flag(what: str, may_be_none: bool, value: Any) -> bool | None:
    if value is True or value is False or (value is None and may_be_none):
        return value
    x = _unwrapped(value)
    if not isinstance(x, bool) and not (isinstance(x, Integral) and x in (0, 1)):
        raise refuse(what, value, "True, False or None" if may_be_none else "True or False")
    return bool(x)


def _lr(value: Any) -> float | Tensor:
    wanted = "a finite number of 0 or more, such as 1e-3"
    if not isinstance(value, Tensor):
        return real("learning rate", _not_negative, wanted, value)
    if value.numel() != 1:
        raise ValueError(f"Tensor lr must be 1-element, but it has {value.numel()}: give each group its own")
    if value.is_complex() or value.dtype == torch.bool:
        raise refuse("learning rate", value, wanted)
    if value.device.type == "cpu" and type(value) in (Tensor, torch.nn.Parameter):
        real("learning rate", _not_negative, wanted, value)
    return value  # elsewhere its value is not looked at: that would wait for the device


def _betas(value: Any) -> tuple[float, float]:
    if type(value) is tuple and [*map(type, value)] == [float, float]:
        b1, b2 = value
        if 0 <= b1 < 1 and 0 <= b2 < 1:
            return value  # at once, as at every step whose lr has changed
    try:
        is_pair = not isinstance(value, str | bytes | Mapping | set | frozenset)
        pair = list(value) if is_pair else None
    except TypeError:
        pair = None
    if pair is None or len(pair) != 2:
        raise refuse("betas", value, "two numbers in [0, 1), such as (0.9, 0.999)")
    if isinstance(pair[0], Tensor) != isinstance(pair[1], Tensor):
        raise ValueError(
            f"betas must be either both floats or both Tensors, not {_shown(value)}: give two floats"
        )
    b1, b2 = (
        real(f"beta parameter at index {i}", lambda x: 0 <= x < 1, "in [0, 1), as 0.9 is", b)
        for i, b in enumerate(pair)
    )
    return b1, b2


def _layerwise(value: Any) -> str:
    if not isinstance(value, str) or value not in ("pre", "post"):
        raise refuse("layerwise", value, "'pre' or 'post'")
    return str.__str__(value)


def _state_dtype(value: Any) -> str | None:
    name = str(value).removeprefix("torch.") if isinstance(value, torch.dtype | str) else value
    if name is not None and name not in STATE_DTYPES:
        raise refuse(
            "state_dtype",
            value,
            "None, 'float32', 'bfloat16' or 'int8' (float16 cannot hold v, which squares gradients)",
        )
    return name


def _not_negative(x: float) -> bool:
    return x >= 0


def _positive(x: float) -> bool:
    return x > 0


PLAIN: dict[str, Callable[[Any], Any]] = {
    "lr": _lr,
    "betas": _betas,
    "eps": partial(
        real,
        "eps value",
        _positive,
        "a finite number above 0, such as 1e-8, since it bounds the stepsize by sqrt((1-beta2)/eps)",
    ),
    "weight_decay": partial(
        real, "weight_decay value", _not_negative, "a finite number of 0 or more, such as 1e-2"
    ),
    "layerwise": _layerwise,
    "state_dtype": _state_dtype,
    "seed": partial(
        integer, "seed", lambda x: 0 <= x < 2**32, f"an integer from 0 to {2**32 - 1}, such as 0"
    ),
    **{
        name: partial(flag, name, False)
        for name in (
            "decoupled_weight_decay",
            "rectify",
            "stochastic_rounding",
            "maximize",
            "capturable",
            "differentiable",
        )
    },
    **{name: partial(flag, name, True) for name in ("foreach", "fused")},
}
