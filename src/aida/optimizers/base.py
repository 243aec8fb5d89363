"""Layerwise, the base of every member: state, groups and the one short step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain
from operator import is_
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, _use_grad_for_differentiable
from typing_extensions import Unpack

from .. import family, sharding
from ..backends.dispatch import choose
from .define import plain_rule, whole_signature
from .foreign import MEMBERS_OWN, check_source
from .layer_batch import LayerBatch, LayerCache, gather
from .layer_checks import MOMENTS
from .names import check_arguments, warn_of_keys
from .process_lock import ProcessLock
from .state import moment_dtypes, new_state, new_step
from .step import Rule, StepBatch, prepare_step, run, unscales
from .validate import check_group, warn_where_eps_underflows


class Options(TypedDict, total=False):
    """Keyword arguments beside lr, betas, eps and weight_decay; all live in param_groups, as plain values.

    K: number of projections, at most 64; xi > 0 keeps a zero gradient from 0/0 (members that project).
    layerwise: "pre" averages r^2 over the layer, "post" the stepsizes u (LAdam, LAdaBelief, LAida).
    decoupled_weight_decay: p <- (1 - lr*wd)*p, not g <- g + wd*p.  rectify: RAdam's factor on the step.
    state_dtype: "bfloat16", or torch's type, halves the moments, rounded at random from `seed`, without bias
    (a pooled v and the moments of complex parameters keep theirs); None: the parameter's, float32 at least.
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
        self._shapes: list[Any] = []  # of whole layers, as they were when their group was added
        self._numel: dict[Tensor, int] = {}  # of whole layers of which only reduce_groups knows
        self._fresh = True  # never stepped or loaded
        self._layers = LayerCache()
        self._checked: dict[int, list[Any]] = {}  # each group's values as they were found right
        self._lock = ProcessLock()
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
        self._shapes.append(sharding.shapes(group["params"]))
        self._numel = {}
        if getattr(self, "released_by", None) is not None:
            self.released_by.watch()
        warn_where_eps_underflows(group, stacklevel=4)
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "reduce_groups": self.reduce_groups, "_shapes": self._shapes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Older states lack newer arguments and may count in plain numbers; torch shares a loaded counter.

        Raises ValueError for another optimizer's state and for values that no group may have.
        """
        who, groups = type(self).__name__, state["param_groups"]
        defaults = state.get("defaults") or self.defaults
        for group in groups:
            check_group(group)
        check_source(who, defaults, groups, state["state"])
        for group in groups:
            for key, default in defaults.items():
                group.setdefault(key, default)
        super().__setstate__(state)
        self._numel, self._fresh = {}, not self.state
        self._layers, self._lock, self._checked = LayerCache(), ProcessLock(), {}
        # A load leaves it to release_gradients' handle who steps; a copy has no handle.
        self.__dict__.setdefault("released_by", None)
        self.__dict__.setdefault("reduce_groups", None)
        self.__dict__.setdefault("_shapes", [sharding.shapes(group["params"]) for group in self.param_groups])
        for group in self.param_groups:
            for p in group["params"]:
                if p in self.state and "step" in (of_p := self.state[p]):
                    of_p["step"] = new_step(p, group).fill_(float(of_p["step"]))

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
        keys = chain.from_iterable(group["params"] for group in loaded["param_groups"])
        params = ((p, group) for group in self.param_groups for p in group["params"])
        for key, (p, group) in zip(keys, params, strict=True):
            dtypes = {
                **dict(zip(MOMENTS, moment_dtypes(p, group), strict=True)),
                "rounding_step": torch.int64,
            }
            for name, dtype in dtypes.items():
                if name in (saved := loaded["state"].get(key, {})):
                    self.state[p][name] = saved[name].detach().to(p.device, dtype, copy=True)

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimization step; returns the closure's loss, if a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with nullcontext() if torch.compiler.is_compiling() else self._lock:
            if not (self._fresh and self._is_state_init_step()):
                self._refuse_released_step()
                self._take_step()
        return loss

    def _refuse_released_step(self) -> None:
        if self.released_by is not None:
            raise RuntimeError(
                "release_gradients steps every layer in backward: remove this call of optimizer.step(), or "
                "remove() the handle first"
            )

    def _take_step(self) -> None:
        if torch.compiler.is_compiling():
            if self._is_sharded():  # its messages are sent outside of what is compiled
                torch.compiler.disable(self._take_step)()  # type: ignore[call-arg]
            else:
                run(self._prepare(self._all_parts()), self.state)
            return
        if len(self._checked) > len(self.param_groups):  # nothing of a removed group is to be kept
            self._layers.clear()
            self._checked.clear()
        reduce_gram, reduce_stepsizes = self._reductions()
        with self._layers.in_use():
            try:
                steps = self._prepare(self._all_parts())
            except Exception:
                if first := reduce_gram or reduce_stepsizes:
                    first.refuse()
                raise
            run(steps, self.state, reduce_gram, reduce_stepsizes)
        if sharding.active() and not self.state:
            sharding.warn_without_gradients(group["params"] for group in self.param_groups)

    def step_layers(self, layers: Iterable[tuple[int, int, Tensor]]) -> None:
        """Step these layers alone, as step() would: (index of a group, place in the optimizer, parameter)."""
        by_group: dict[int, tuple[list[Tensor], list[int]]] = {}
        for i, number, p in layers:
            params, numbers = by_group.setdefault(i, ([], []))
            params.append(p)
            numbers.append(number)
        with self._lock:
            self._fresh = False
            with self._layers.in_use():
                parts = ((i, *of_group, tuple(of_group[1])) for i, of_group in by_group.items())
                run(self._prepare(parts), self.state)

    def _prepare(self, parts: Iterable[tuple[int, list[Tensor], Sequence[int], Any]]) -> list[StepBatch]:
        """What the step of these layers needs, everything checked and nothing stepped.

        parts: (index of a group, parameters of it, their places in the optimizer, key of the cache).
        """
        prepared: list[StepBatch] = []
        states: Any = self.state
        scaling: dict[str, Any] = {name: getattr(self, name, None) for name in ("grad_scale", "found_inf")}
        for i, params, numbers, key in parts:
            group = self.param_groups[i]
            self._check_live_values(i, group)

            def gathered(
                i: int = i, group: Any = group, params: Any = params, numbers: Any = numbers
            ) -> list[LayerBatch]:
                self._check_whole(i)
                return gather(group, params, numbers, states, new_state, self._numel, type(self).__name__)

            batches = self._layers.find((i, key), gathered, group, params, numbers, states)
            rule: Any = dict(rule=self._rule_of(group), eps_outside=self.eps_outside)
            prepared += prepare_step(batches, group, **rule, **scaling)
        return prepared

    def _check_live_values(self, i: int, group: dict[str, Any]) -> None:
        """Check what schedulers and users have set in a group since its last step."""
        last, now = self._checked.get(i, ()), group.values()
        if torch.compiler.is_compiling() or (len(last) == len(now) and all(map(is_, now, last))):
            return
        check_group(group)
        self._checked[i] = list(group.values())

    def _all_parts(self) -> Iterator[tuple[int, list[Tensor], Sequence[int], None]]:
        """Each group whole; its parameters' places in the optimizer key their rounding."""
        first = 0
        for i, group in enumerate(self.param_groups):
            params = group["params"]
            yield i, params, range(first, first + len(params)), None
            first += len(params)

    def _reductions(self) -> tuple[Any, Any]:
        """What turns sums over shards into sums over whole layers; (None, None) where nothing is sharded.

        All layers at once: one message per process group, which every rank sends, gradients or not.
        """
        if not self._is_sharded():
            return None, None
        if self.reduce_groups:
            plain = [p for p in self._all_params() if not sharding.is_dtensor(p)]
            if any(p not in self._numel for p in plain):
                self._numel = sharding.whole_numel(plain, self.reduce_groups)
        totals = (
            self._totals(4, self._needs_gram),
            self._totals(2, lambda group: group.get("layerwise") == "post"),
        )
        return tuple(total if total.members else None for total in totals)  # type: ignore[return-value]

    def _is_sharded(self) -> bool:
        if not sharding.active():
            return False
        return self.reduce_groups is not None or sharding.any_dtensor(self._all_params())

    def _check_whole(self, i: int) -> None:
        """Raise RuntimeError where a group that needs whole layers has pieces, as engines leave them."""
        group = self.param_groups[i]
        if sharding.active() and (self._needs_gram(group) or group.get("layerwise")):
            shapes = self._shapes[i] if i < len(self._shapes) else []
            known = {*chain.from_iterable(self._shapes)}
            sharding.check_whole(group["params"], shapes, known, self.reduce_groups)

    def _all_params(self) -> Iterator[Tensor]:
        return chain.from_iterable(group["params"] for group in self.param_groups)

    def _totals(self, width: int, wanted: Callable[[dict[str, Any]], bool]) -> sharding.Totals:
        params = chain.from_iterable(group["params"] for group in self.param_groups if wanted(group))
        return sharding.Totals(params, width, self.reduce_groups)

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        """A constant (alpha, beta), or a function of (gg, gm, mm)."""
        rule: Any = self.rule
        if isinstance(rule, tuple):
            return rule
        if rule is family.projection and group["K"] == 0:
            return family.BELIEF  # what no projection leaves, without the sums
        return partial(rule, **{name: group[name] for name in self.rule_arguments})

    def _needs_gram(self, group: dict[str, Any]) -> bool:
        return callable(self._rule_of(group)) or group.get("layerwise") == "pre"

    @torch.no_grad()
    def _is_state_init_step(self) -> bool:
        """Whether this first step has zero gradients and lr 0: checkpoint tools make the state so.

        It does make the state, and must not count.
        """
        if torch.compiler.is_compiling():
            return False
        self._fresh = False
        rates = [group["lr"] for group in self.param_groups]
        if any((isinstance(lr, Tensor) and lr.device.type != "cpu") or lr != 0 for lr in rates):
            return False
        with_gradient = [
            (p, group) for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        counts = any(p.grad.is_sparse or bool(sharding.shard(p.grad).any()) for p, _ in with_gradient)
        if sharding.active():
            counts = self._totals(1, lambda group: True).any(counts)
        if not counts:
            for p, group in with_gradient:
                if not self.state[p]:
                    self.state[p] = new_state(p, group)
        return not counts

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """GradScaler asks whether the step itself divides by grad_scale and heeds found_inf.

        With fused=True alone, as in torch: trainers that clip gradients take it as a reason to refuse.
        """
        return all(
            group["fused"] is True
            and type(p) in (Tensor, torch.nn.Parameter)
            and unscales(choose([p], **_wanted(group)))
            for group in self.param_groups
            for p in group["params"]
        )


def _wanted(group: dict[str, Any]) -> dict[str, Any]:
    return dict(
        use_foreach=group["foreach"], use_fused=group["fused"], differentiable=group["differentiable"]
    )
