"""Layerwise, the base of every member: state, groups and the one short step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, _use_grad_for_differentiable
from typing_extensions import Unpack

from .. import family
from ..backends.choose import choose
from ..backends.contract import Layers
from .step import Part, run, scalars
from .validate import FOREIGN_KEYS, check_group, check_keys

MOMENTS = ("exp_avg", "exp_avg_var")


class Options(TypedDict, total=False):
    """Keyword arguments beside lr, betas, eps and weight_decay; all of them live in param_groups.

    K: number of projections; xi > 0 keeps a zero gradient from 0/0 (members that project).
    layerwise: "pre" averages r^2 over the layer, "post" the stepsizes u (LAdam, LAdaBelief, LAida).
    decoupled_weight_decay: p <- (1 - lr*wd)*p, not g <- g + wd*p.  rectify: RAdam's factor on the step.
    state_dtype: bfloat16 halves the moments, rounded at random, without bias, from `seed` (a pooled v and the
    moments of complex parameters keep their type); None: the parameter's, float32 at least.
    stochastic_rounding: the same rounding for bfloat16 parameters.
    maximize, foreach, fused, capturable, differentiable: as in torch.optim.Adam.
    """

    K: int
    xi: float
    layerwise: str
    decoupled_weight_decay: bool
    rectify: bool
    state_dtype: torch.dtype | None
    stochastic_rounding: bool
    seed: int
    maximize: bool
    foreach: bool | None
    fused: bool | None
    capturable: bool
    differentiable: bool


OPTIONS = Options(
    decoupled_weight_decay=False,
    rectify=False,
    state_dtype=None,
    stochastic_rounding=False,
    seed=0,
    maximize=False,
    foreach=None,
    fused=None,
    capturable=False,
    differentiable=False,
)


class Layerwise(Optimizer):
    """One step of the family; a member adds its residual rule and its own arguments' defaults, nothing else.

    State of a parameter: `step` (0-dim), `exp_avg` m, `exp_avg_var` v (free of eps; 0-dim for
    layerwise="pre"). Both moments of float16 and bfloat16 parameters are float32. `p.grad` is never written.
    Raises ValueError, TypeError or RuntimeError for an argument that cannot be used; RuntimeError for a
    sparse gradient.
    """

    rule: ClassVar[Any]  # a constant (alpha, beta), or a function of (gg, gm, mm, K, xi)
    own: ClassVar[Options] = Options()  # arguments that not every member has, with their defaults
    eps_outside: ClassVar[bool] = False  # eps a second time, outside the root

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        known = {**self.own, **OPTIONS}
        shared = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        check_keys(type(self).__name__, options, known, shared)
        super().__init__(params, {**shared, **known, **options})

    def __init_subclass__(cls) -> None:
        """Show the member's whole signature to help() and to tools that read it."""
        shown = inspect.signature(cls.__init__).parameters.values()
        named = [p for p in shown if p.name not in ("self", "options")]
        keyword = inspect.Parameter.KEYWORD_ONLY
        named += [inspect.Parameter(k, keyword, default=d) for k, d in {**cls.own, **OPTIONS}.items()]
        cls.__signature__ = inspect.Signature(named)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if isinstance(param_group, dict):
            where = f"parameter group {len(self.param_groups)} of {type(self).__name__}"
            check_keys(where, param_group, self.defaults, FOREIGN_KEYS)
        super().add_param_group(param_group)
        try:
            check_group(self.param_groups[-1])
        except Exception:
            del self.param_groups[-1]
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Older states lack newer arguments and may count in plain numbers; torch shares a loaded counter."""
        super().__setstate__(state)
        for group in self.param_groups:
            for key, default in self.defaults.items():
                group.setdefault(key, default)
            for p in group["params"]:
                if p in self.state and "step" in (of_p := self.state[p]):
                    of_p["step"] = _new_step(p, group).fill_(float(of_p["step"]))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but moments keep their type: torch casts them to the parameter's."""
        loaded: dict[str, Any] = {}
        hook = self.register_load_state_dict_pre_hook(lambda _, seen: loaded.update(seen))
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        keys = chain.from_iterable(group["params"] for group in loaded["param_groups"])
        params = ((p, group) for group in self.param_groups for p in group["params"])
        for key, (p, group) in zip(keys, params, strict=True):
            for name, dtype in zip(MOMENTS, _moment_dtypes(p, group), strict=True):
                if name in (saved := loaded["state"].get(key, {})):
                    self.state[p][name] = saved[name].detach().to(p.device, dtype, copy=True)

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimization step; returns the closure's loss, if a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        first = 0  # each layer's number in the optimizer keys its rounding
        for group in self.param_groups:
            for part in self._parts(group, first):
                run([part])
            first += len(group["params"])
        return loss

    def _parts(self, group: dict[str, Any], first: int) -> Iterator[Part]:
        """The group's layers that have a gradient, their step counters advanced."""
        backend = choose(
            use_foreach=group["foreach"], use_fused=group["fused"], differentiable=group["differentiable"]
        )
        projects = not isinstance(self.rule, tuple)
        coefficients = family.BELIEF if projects else self.rule  # what K=0 projections leave
        project = partial(self.rule, K=group["K"], xi=group["xi"]) if projects and group["K"] else None
        for layers, steps, numbers in self._layers(group, first):
            torch._foreach_add_(steps, 1)
            s = scalars(steps, numbers, group, eps_outside=self.eps_outside)
            yield Part(layers, s, backend, project, coefficients)

    def _layers(self, group: dict[str, Any], first: int) -> Iterator[tuple[Layers, list[Tensor], list[int]]]:
        """The group's layers that have a gradient, with step counters and numbers, by device and type."""
        found: dict[Any, tuple[Layers, list[Tensor], list[int]]] = {}
        for number, p in enumerate(group["params"], first):
            g = p.grad
            if g is None:
                continue
            if g.is_sparse:
                raise RuntimeError(
                    f"{type(self).__name__} does not support sparse gradients: build the layer with "
                    "sparse=False, or give its parameters to torch.optim.SparseAdam"
                )
            state = self.state[p]
            if not state:
                self._init_state(p, state, group)
            layers, steps, numbers = found.setdefault(
                (p.device, p.dtype), (Layers([], [], [], [], []), [], [])
            )
            steps.append(state["step"])
            numbers.append(number)
            layers.p.append(_real(p))
            layers.g.append(_real(g))
            layers.m.append(_real(state["exp_avg"]))
            layers.v.append(_real(state["exp_avg_var"]))
            layers.numel.append(max(layers.p[-1].numel(), 1))  # an empty layer's sums are 0
        yield from found.values()

    def _init_state(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        m_dtype, v_dtype = _moment_dtypes(p, group)
        state["step"] = _new_step(p, group)
        state["exp_avg"] = torch.zeros_like(p, dtype=m_dtype, memory_format=torch.preserve_format)
        if group.get("layerwise") == "pre":
            state["exp_avg_var"] = torch.zeros((), dtype=v_dtype, device=p.device)
        else:
            state["exp_avg_var"] = torch.zeros_like(p, dtype=v_dtype, memory_format=torch.preserve_format)


def _new_step(p: Tensor, group: dict[str, Any]) -> Tensor:
    device = p.device if group["capturable"] else "cpu"
    return torch.zeros((), dtype=torch.float32, device=device)


def _moment_dtypes(p: Tensor, group: dict[str, Any]) -> tuple[torch.dtype, torch.dtype]:
    """Of m and v, which differ where one real v is pooled: it costs nothing to keep in full."""
    full = torch.promote_types(p.dtype, torch.float32)
    kept = full if p.is_complex() else group["state_dtype"] or full
    return kept, full.to_real() if group.get("layerwise") == "pre" else kept


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x
