"""The members in the form of torch's own OptimizerInfo database: each test runs over INFOS or INPUTS.

What torch asks of Adam is taken from its wheel, so that a new torch brings its new demands.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import lr_scheduler as schedulers
from torch.testing._internal.common_optimizers import (
    ErrorOptimizerInput,
    OptimizerErrorEnum,
    OptimizerInfo,
    OptimizerInput,
    optim_db,
)

from aida.backends.dispatch import FUSED
from aida.optimizers.options import OPTIONS
from helpers.members import CASES, OWN, name

ADAM: Any = next(info for info in optim_db if info.optim_cls is torch.optim.Adam)
FOREIGN = {"amsgrad"}  # arguments of Adam that no member has
# What torch refuses and is exact here: test_a_tensor_lr_is_a_number.
ALLOWED = {"lr as a Tensor is not supported for capturable=False and foreach=True"}

SCHEDULERS = {
    "step": lambda o: schedulers.StepLR(o, step_size=3, gamma=0.5),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, T_max=10),
    "plateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1),
    "one cycle": lambda o: schedulers.OneCycleLR(o, max_lr=0.1, total_steps=12, cycle_momentum=True),
    "warmup": lambda o: schedulers.SequentialLR(
        o,
        [schedulers.LinearLR(o, start_factor=0.1, total_iters=4), schedulers.ExponentialLR(o, gamma=0.9)],
        milestones=[4],
    ),
}


def _wrong(why: str, error: type[Exception], regex: str, *, at_step: bool = False, **kwargs: Any) -> Any:
    return ErrorOptimizerInput(
        OptimizerInput(params=kwargs.pop("params", None), kwargs=kwargs, desc=why),
        error_on=OptimizerErrorEnum(int(at_step)),
        error_type=error,
        error_regex=regex,
    )


def _sparse() -> list[Parameter]:
    p = Parameter(torch.ones(3))
    p.grad = torch.ones(3).to_sparse()
    return [p]


def _errors(cls: type, device: str = "cpu") -> list[Any]:
    """What each wrong argument says: its name, its value and what to do."""
    p = Parameter(torch.ones(1))
    sub = r"it must be in \[0, 1\), as 0.9 is"
    errors = [
        *(e for e in ADAM.optim_error_inputs_func(device, torch.float32) if e.error_regex not in ALLOWED),
        _wrong("lr < 0", ValueError, "learning rate: -1; it must be a finite number of 0 or more", lr=-1),
        _wrong("lr nan", ValueError, "Invalid learning rate: nan; it must be", lr=float("nan")),
        _wrong("tensor lr < 0", ValueError, "Invalid learning rate: -0.5", lr=torch.tensor(-0.5)),
        _wrong("b1 = 1", ValueError, f"beta parameter at index 0: 1.0; {sub}", betas=(1.0, 0.9)),
        _wrong("b2 < 0", ValueError, f"beta parameter at index 1: -0.1; {sub}", betas=(0.9, -0.1)),
        _wrong("eps = 0", ValueError, r"Invalid eps value: 0.0; .*above 0.*bounds the stepsize", eps=0.0),
        _wrong("decay < 0", ValueError, "weight_decay value: -1; it must be a finite", weight_decay=-1),
        _wrong("misspelt", TypeError, f"{cls.__name__} has no argument 'wieght_decay'.*'weight_decay'",
               wieght_decay=0.1),
        _wrong("unknown", TypeError, "no argument 'zzzz': known are .*capturable", zzzz=1),
        _wrong("misspelt in a group", UserWarning, "parameter group 0 .* key 'betsa'.* mean 'betas'",
               params=[{"params": [p], "betsa": (0.9, 0.9)}]),
        _wrong("wrong in a group", ValueError, "Invalid learning rate: -2",
               params=[{"params": [p], "lr": -2}]),
        _wrong("two backends", RuntimeError, "`fused` and `foreach` cannot be `True` together; leave one",
               foreach=True, fused=True),
        *(_wrong(f"differentiable {which}", RuntimeError,
                 f"`{which}` does not support `differentiable`.*leave it None",
                 differentiable=True, **{which: True})
          for which in ("foreach", "fused")),
        _wrong("sparse", RuntimeError, f"{cls.__name__} does not support sparse.*torch.optim.SparseAdam",
               params=_sparse(), at_step=True),
        _wrong("underflow", UserWarning, r"eps=1e-44 underflows: .*torch.float32.*use a larger eps",
               params=[p], eps=1e-44),
    ]  # fmt: skip
    if "K" in cls.own:
        for K in (-1, 2.0, True, "2", 10**9):
            text = f"Invalid K: {K!r}; it must be an integer from 0 to 64"
            errors.append(_wrong(f"K={K!r}", ValueError, text, K=K))
        errors.append(_wrong("xi = 0", ValueError, "Invalid xi: 0.0; .*above 0.*0/0", xi=0.0))
    else:
        errors.append(_wrong("no K", TypeError, f"{cls.__name__} has no argument 'K'", K=2))
    if "layerwise" in cls.own:
        errors.append(
            _wrong("layerwise", ValueError, "layerwise: 'mid'; it must be 'pre' or 'post'", layerwise="mid")
        )
    return errors


def _inputs(cls: type, device: str, dtype: Any = None) -> list[Any]:
    """The tests' own settings and those of torch's Adam, new ones at each call: torch's tests change them."""
    inputs = [OptimizerInput(None, kwargs, name((c, kwargs))) for c, kwargs in CASES if c is cls]
    for entry in ADAM.optim_inputs_func(device, dtype):
        kwargs = {k: v for k, v in entry.kwargs.items() if k not in FOREIGN}
        if not any(repr(kwargs) == repr(known.kwargs) for known in inputs):
            inputs.append(OptimizerInput(None, kwargs, f"{cls.__name__} as Adam: {entry.desc}"))
    return copy.deepcopy(inputs)


FUSED_ON = tuple(d for d, (_, why) in FUSED.items() if d != "cpu" or why(torch.ones(1, device="cpu")) is None)
INFOS = [
    OptimizerInfo(
        cls,
        optim_inputs_func=partial(_inputs, cls),
        optim_error_inputs_func=lambda device, dtype, cls=cls: _errors(cls, device),
        scheduler_inputs=ADAM.scheduler_inputs,
        supported_impls=ADAM.supported_impls,
        not_og_supported_flags=(*OPTIONS, *cls.own),
        has_capturable_arg=True,
        supports_fused_on=FUSED_ON,
    )
    for cls in OWN
]
INPUTS = [(info.optim_cls, entry) for info in INFOS for entry in info.optim_inputs_func(device="cpu")]
ERRORS = [(info.optim_cls, e) for info in INFOS for e in info.optim_error_inputs_func("cpu", torch.float32)]
