"""Layerwise, the base of every member: state, groups and the one short step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, _use_grad_for_differentiable
from typing_extensions import Unpack

from .. import family, sharding
from .define import plain_rule, whole_signature
from .foreign import MEMBERS_OWN, SAVED_BY, member_name
from .layer_batch import GroupPart, LayerCache, some_layers, whole_groups
from .names import check_arguments, warn_of_keys
from .process_lock import ProcessLock
from .state import complete_groups, is_state_init_step, renew_counters, restore_types
from .step import Rule, StepBatch, needs_gram, prepare_step, run, scales_gradients
from .validate import check_group, warn_where_eps_underflows


class Options(TypedDict, total=False):
    """Keyword arguments beside lr, betas, eps and weight_decay; all live in param_groups, as plain values.

    K: number of projections, at most 64; xi > 0 keeps a zero gradient from 0/0 (members that project).
    layerwise: "pre" averages r^2 over the layer, "post" the stepsizes u (LAdam, LAdaBelief, LAida).
    decoupled_weight_decay: p <- (1 - lr*wd)*p, not g <- g + wd*p.  rectify: RAdam's factor on the step.
    state_dtype: "bfloat16", or torch's type, halves the moments, stochastically rounded from `seed`,
    without bias (a pooled v and the moments of complex parameters keep theirs); None: the parameter's,
    float32 at least.
    stochastic_rounding: the same rounding for bfloat16 parameters.
    maximize, foreach, fused, capturable, differentiable: as in torch.optim.Adam.
    """

    K: int
    xi: float
    layerwise: str
    decoupled_weight_decay: bool
    rectify: bool
    state_dtype: str | torch.dtype | None
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
    reduce_groups: for engines that give a rank a plain piece of a layer, the process groups that share it; an
    attribute and not in param_groups, since a checkpoint cannot hold a function. DTensors need nothing.
    Raises ValueError, TypeError or RuntimeError for an argument that cannot be used, before parameters are
    looked at; RuntimeError for a sparse gradient.
    """

    # A constant (alpha, beta), or a function of gg, gm, mm and of those of the member's arguments it names.
    rule: ClassVar[Any]
    rule_arguments: ClassVar[tuple[str, ...]] = ()  # the names of those arguments, such as K and xi
    own: ClassVar[Any] = Options()  # arguments that not every member has, with their defaults
    eps_outside: ClassVar[bool] = False  # eps a second time, outside the root

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        reduce_groups: sharding.ReduceGroups | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.reduce_groups = reduce_groups
        self._whole = sharding.WholeLayers()
        self._layers = LayerCache(self._whole, type(self).__name__)
        self._lock = ProcessLock()
        self._fresh = True  # never stepped or loaded
        self.released_by: Any = None  # the handle of release_gradients, which steps in place of step()
        shared = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        known = {**self._options(), **shared}
        who = type(self).__name__
        if not hasattr(self, "rule"):
            raise TypeError(f"{who} has no rule: build a member of the family, such as Aida, or give it one")
        check_arguments(who, options, known)
        defaults = {**known, **options}
        check_group(defaults)
        super().__init__(params, defaults)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Complete a new member: its rule in plain numbers, and its signature for help() and other tools."""
        super().__init_subclass__(**kwargs)
        if (rule := inspect.getattr_static(cls, "rule", None)) is not None:
            cls.rule, cls.rule_arguments = plain_rule(cls.__name__, rule, cls._options())
        if "__signature__" not in cls.__dict__:
            cls.__signature__ = whole_signature(cls.__init__, Layerwise.__init__, cls._options())

    @classmethod
    def _options(cls) -> dict[str, Any]:
        """The defaults of the keyword arguments, the member's own first."""
        return {**cls.own, **OPTIONS, **cls.own}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, but values are checked first; keys of a user's own are kept."""
        if not isinstance(param_group, dict):
            return super().add_param_group(param_group)  # which raises
        where = f"parameter group {len(self.param_groups)} of {type(self).__name__}"
        warn_of_keys(where, param_group, self.defaults, MEMBERS_OWN)
        plain = {k: v for k, v in {**self.defaults, **param_group}.items() if k != "params"}
        check_group(plain)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.update(plain)
        self._whole.add_group(group["params"])
        if getattr(self, "released_by", None) is not None:
            self.released_by.watch()
        warn_where_eps_underflows(group, stacklevel=4)
        return None

    def __getstate__(self) -> dict[str, Any]:
        shapes = self._whole.shapes
        return {**super().__getstate__(), "reduce_groups": self.reduce_groups, "_shapes": shapes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Raises ValueError for another optimizer's state and for values that no group may have."""
        complete_groups(type(self), state.get("defaults") or self.defaults, state)
        shapes = state.pop("_shapes", None)
        super().__setstate__(state)
        # A load leaves it to release_gradients' handle who steps; a copy has no handle.
        if "_whole" not in self.__dict__:
            groups = (group["params"] for group in self.param_groups)
            self._whole = sharding.WholeLayers([*map(sharding.shapes, groups)] if shapes is None else shapes)
            self.released_by = None
            self.__dict__.setdefault("reduce_groups", None)
        self._layers, self._lock = LayerCache(self._whole, type(self).__name__), ProcessLock()
        self._fresh = not self.state
        renew_counters(self.param_groups, self.state)

    def state_dict(self) -> dict[str, Any]:
        """As torch's; each group says in `saved_by` which member saved it, so that no other loads it.

        A subclass without a rule of its own saves and loads as the member that it extends. States of versions
        that did not write the key load too, and so does one from which it is removed (a renamed class).
        """
        saved = super().state_dict()
        for group in saved["param_groups"]:
            group[SAVED_BY] = member_name(type(self))
        return saved

    @torch.inference_mode(False)
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but moments keep their type, which torch casts to the parameter's.

        Raises ValueError for another optimizer's state; then nothing has changed.
        """
        loaded: dict[str, Any] = {}
        hook = self.register_load_state_dict_pre_hook(lambda _, seen: loaded.update(seen))
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
        restore_types(self.param_groups, self.state, loaded)

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimization step; returns the closure's loss, if a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with nullcontext() if torch.compiler.is_compiling() else self._lock:
            if self._fresh and self._is_state_init_step():
                return loss
            if self.released_by is not None:
                raise RuntimeError(
                    "release_gradients steps every layer in backward: remove this call of optimizer.step(), "
                    "or remove() the handle first"
                )
            sharded = self._whole.is_sharded(self.param_groups, self.reduce_groups)
            step: Any = self._step
            if sharded and torch.compiler.is_compiling():  # messages are sent outside of what is compiled
                step = torch.compiler.disable(step)
            step(whole_groups(self.param_groups), sharded)
            if not self.state and sharding.active():
                sharding.warn_without_gradients(group["params"] for group in self.param_groups)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's; where release_gradients steps, it begins to step parameters that groups have now."""
        if self.released_by is not None:
            self.released_by.begin()
        super().zero_grad(set_to_none)

    def step_layers(self, layers: Iterable[tuple[int, int, Tensor]]) -> None:
        """Step these layers alone, as step() would: (index of a group, place in the optimizer, parameter)."""
        with self._lock:
            self._fresh = False
            self._step(some_layers(layers))
        self._opt_called = True  # by which schedulers know that they do not come before the first step

    @property
    def has_step_hooks(self) -> bool:
        """Whether hooks are registered that step() calls and step_layers() does not."""
        return bool(self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks)

    def _step(self, parts: Iterable[GroupPart], sharded: bool = False) -> None:
        """layer_batch -> prepare_step -> run: everything is checked before anything is written."""
        reductions = self._reductions() if sharded else None
        scaling: dict[str, Any] = {name: getattr(self, name, None) for name in ("grad_scale", "found_inf")}
        in_use = nullcontext() if torch.compiler.is_compiling() else self._layers.in_use(self.param_groups)
        with in_use, reductions or nullcontext():
            steps: list[StepBatch] = []
            for part in parts:
                group = self.param_groups[part.group]
                rule = self._rule_of(group)
                batches = self._layers.find(part, group, self.state, callable(rule), self.reduce_groups)
                steps += prepare_step(batches, group, rule=rule, eps_outside=self.eps_outside, **scaling)
            run(steps, self.state, reductions)

    def _reductions(self) -> sharding.StepReductions:
        with_gram = [group for group in self.param_groups if needs_gram(self._rule_of(group), group)]
        return self._whole.reductions(self.param_groups, with_gram, self.reduce_groups)

    def _is_state_init_step(self) -> bool:
        """Whether checkpoint tools take this first step to make the state; it makes it."""
        if torch.compiler.is_compiling():
            return False
        self._fresh = False
        return is_state_init_step(self.param_groups, self.state, self.reduce_groups)

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        """A constant (alpha, beta), or a function of (gg, gm, mm)."""
        rule: Any = self.rule
        if isinstance(rule, tuple):
            return rule
        if rule is family.projection and group["K"] == 0:
            return family.BELIEF  # what no projection leaves, without the sums
        return partial(rule, **{name: group[name] for name in self.rule_arguments})

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """GradScaler asks whether the step itself divides by grad_scale and reads found_inf.

        With fused=True alone, as in torch: trainers that clip gradients take it as a reason to refuse.
        """
        return all(
            group["fused"] is True and scales_gradients(p, group)
            for group in self.param_groups
            for p in group["params"]
        )
