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

from .. import family, sharding
from ..backends.choose import choose
from .define import plain_rule, whole_signature
from .foreign import MEMBERS_OWN, check_source
from .gather import MOMENTS, Gathered, gather, may_be_kept
from .names import check_arguments, warn_of_keys
from .step import Part, advance, check_unscales, run, scalars, unscales
from .validate import check_group, state_dtype, warn_where_eps_underflows


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
        self._gathered: dict[int, Gathered] = {}  # the last step's layers, by their group's first parameter
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
        check_source(who, defaults, groups, state["state"])
        for group in groups:
            for key, default in defaults.items():
                group.setdefault(key, default)
            check_group(group)
        super().__setstate__(state)
        self._numel, self._fresh, self._gathered = {}, not self.state, {}
        self.__dict__.setdefault("reduce_groups", None)
        self.__dict__.setdefault("_shapes", [sharding.shapes(group["params"]) for group in self.param_groups])
        for group in self.param_groups:
            for p in group["params"]:
                if p in self.state and "step" in (of_p := self.state[p]):
                    of_p["step"] = _new_step(p, group).fill_(float(of_p["step"]))

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
        if self._fresh and self._is_rehearsal():
            return loss
        if sharding.active():
            self._sharded_step()
        else:
            self._step_by_part()
        for kept in self._gathered.values():
            kept.release()
        return loss

    def _step_by_part(self) -> None:
        for part in self._all_parts():
            run([part])

    def _sharded_step(self) -> None:
        """All layers at once: one message per process group, which every rank sends, gradients or not."""
        whole_gram = self._totals(4, self._needs_gram)
        whole_stepsizes = self._totals(1, lambda group: group.get("layerwise") == "post")
        for group, shapes in zip(self.param_groups, self._shapes, strict=True):
            if self._needs_gram(group) or group.get("layerwise"):
                sharding.check_whole(group["params"], shapes, self.reduce_groups)
        if self.reduce_groups and not self._numel:
            params = chain.from_iterable(group["params"] for group in self.param_groups)
            self._numel = sharding.whole_numel(params, self.reduce_groups)
        if whole_gram.members or whole_stepsizes.members:
            run(list(self._all_parts()), whole_gram, whole_stepsizes)
        else:
            self._step_by_part()
        if not self.state:
            sharding.warn_without_gradients(group["params"] for group in self.param_groups)

    def _totals(self, width: int, wanted: Callable[[dict[str, Any]], bool]) -> sharding.Totals:
        params = chain.from_iterable(group["params"] for group in self.param_groups if wanted(group))
        return sharding.Totals(params, width, self.reduce_groups)

    def _projects(self, group: dict[str, Any]) -> bool:
        if self.rule is family.projection:
            return group["K"] > 0
        return not isinstance(self.rule, tuple)

    def _needs_gram(self, group: dict[str, Any]) -> bool:
        return self._projects(group) or group.get("layerwise") == "pre"

    @torch.no_grad()
    def _is_rehearsal(self) -> bool:
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
                self._init_state(p, self.state[p], group)
        return not counts

    def _all_parts(self) -> Iterator[Part]:
        first = 0  # each layer's number in the optimizer keys its rounding
        for group in self.param_groups:
            yield from self._parts(group, first)
            first += len(group["params"])

    def _parts(self, group: dict[str, Any], first: int) -> Iterator[Part]:
        """The group's layers that have a gradient, their step counters advanced."""
        coefficients = self.rule if isinstance(self.rule, tuple) else family.BELIEF  # what K=0 leaves
        rule: Any = self.rule
        arguments = {name: group[name] for name in self.rule_arguments}
        project = partial(rule, **arguments) if self._projects(group) else None
        sums = family.sums_needed(None if project else coefficients, group.get("layerwise") == "pre")
        grad_scale, found_inf = (getattr(self, name, None) for name in ("grad_scale", "found_inf"))
        for found in self._gathered_layers(group, first):
            layers, steps = found.layers, found.steps
            backend = choose(layers.p, **_wanted(group))
            if grad_scale is not None or found_inf is not None:
                check_unscales(backend)
            if found_inf is not None:  # the device decides whether the step counts
                steps = self._move_counters(found.params, layers.p[0].device)
            if prepare := getattr(backend, "prepare", None):
                prepare(layers)
            counts = advance(steps, group, backend, found_inf)
            s = scalars(counts, found.numbers, group, eps_outside=self.eps_outside)
            s.grad_scale, s.found_inf, s.sums = grad_scale, found_inf, sums
            yield Part(found.params, layers, s, backend, project, coefficients)

    def _gathered_layers(self, group: dict[str, Any], first: int) -> list[Gathered]:
        kept = self._gathered.pop(first, None)
        if kept is None or sharding.active() or not kept.again(group["params"], self.state):
            found = gather(group, first, self.state, self._init_state, self._numel, type(self).__name__)
            if not may_be_kept(found, self._numel):
                return found
            (kept,) = found
        self._gathered[first] = kept
        return [kept]

    def _move_counters(self, params: list[Tensor], device: torch.device) -> list[Tensor]:
        for p in params:
            self.state[p]["step"] = self.state[p]["step"].to(device, non_blocking=True)
        return [self.state[p]["step"] for p in params]

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

    def _init_state(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        m_dtype, v_dtype = _moment_dtypes(p, group)
        state["step"] = _new_step(p, group)
        state["exp_avg"] = torch.zeros_like(p, dtype=m_dtype, memory_format=torch.preserve_format)
        if group.get("layerwise") == "pre":
            state["exp_avg_var"] = torch.zeros((), dtype=v_dtype, device=p.device)
        else:
            state["exp_avg_var"] = torch.zeros_like(p, dtype=v_dtype, memory_format=torch.preserve_format)


def _wanted(group: dict[str, Any]) -> dict[str, Any]:
    return dict(
        use_foreach=group["foreach"], use_fused=group["fused"], differentiable=group["differentiable"]
    )


def _new_step(p: Tensor, group: dict[str, Any]) -> Tensor:
    device = p.device if group["capturable"] else "cpu"
    return torch.zeros((), dtype=torch.float32, device=device)


def _moment_dtypes(p: Tensor, group: dict[str, Any]) -> tuple[torch.dtype, torch.dtype]:
    """Of m and v, which differ where one real v is pooled: it costs nothing to keep in full."""
    full = torch.promote_types(p.dtype, torch.float32)
    if p.is_complex():
        return full, full.to_real() if group.get("layerwise") == "pre" else full
    kept = state_dtype(group) or full
    return kept, full if group.get("layerwise") == "pre" else kept
