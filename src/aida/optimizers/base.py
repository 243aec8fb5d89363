"""Layerwise, the base of every member: its arguments, its groups and the one short step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT, _use_grad_for_differentiable
from typing_extensions import Unpack

from .. import sharding
from .define import show_arguments
from .foreign import MEMBERS_OWN
from .layer_batch import whole_groups
from .layer_checks import check_codes_of_group
from .layers import Layering, LayersOf
from .names import check_arguments, warn_of_keys
from .options import Options
from .shown import with_caps
from .stepping import Stepping
from .validate import check_group, warn_where_eps_underflows


class Layerwise(Stepping):
    """The base of every optimizer of the family, and of your own: a subclass gives a rule of a few lines.

    For each layer, which is one parameter tensor p (unless `layers` says otherwise) with its gradient g and
    momentum m:

        m <- b1*m + (1-b1)*g
        r  = beta*m - alpha*g,   (alpha, beta) = rule(gg, gm, mm, ...)
        v <- b2*v + (1-b2)*r^2
        p <- p - lr/(1-b1^t) * m / sqrt(v/(1-b2^t) + eps/(1-b2))

    The rule is a pair of numbers, or a function of the layer's inner products gg = <g,g>, gm = <g,m>,
    mm = <m,m>, dd = <m-g, m-g> (m the updated momentum). A subclass then steps in every backend (eager,
    foreach, C++, Triton), on sharded models, with release_gradients, in low precision, from checkpoints, and
    under aida.monitor. docs/guide/own-member.md goes from an idea to a comparison; check_member tests one.

    Class attributes:
        rule: (alpha, beta), or a function. Its first parameters are the sums that it needs, by name: others
            are left out of the computation where a kernel can. What follows are arguments of the optimizer,
            by name, but lr. Each sum is a tensor [L] of float64 (float32 on a device without float64), on the
            layers' device, with an entry for each of the L layers that step together: those of one parameter
            group, device and type that have a gradient, in the order of the group; all of them in every
            backend, in sharded models (sums are of whole layers) and in the monitor (there on the CPU).
            Layers that share memory step one after the other, in different calls. It returns two numbers,
            tensors [], or tensors [L]; an entry that is not finite is taken as 1. It must be a function of
            its arguments alone, without self.
        own: the rule's hyperparameters by name, each a default or a `Hyperparameter` with a range; also other
            defaults for the arguments below, and layerwise="pre" or "post" for one stepsize per layer, as in
            LAdam. They are arguments of the constructor, are in `param_groups` and in checkpoints, may differ
            by group, and are checked wherever they are set.
        mixes_layers: whether a layer's (alpha, beta) depends on other layers' sums (a mean over layers, a
            neighbour). Such a rule is refused by release_gradients and beside reduce_groups. Default: False.
        eps_outside: whether eps is added outside the root too, as AdaBelief has it. Default: False.
        sums, rule_arguments, hyperparameters: read from `rule` and `own` when the class is made.

    Arguments:
        params: parameters, named parameters, or groups of them, as torch.optim takes them.
        lr: learning rate, 0 or more; a float or a tensor of one element. Default: 1e-3.
        betas: (b1, b2), the decay rates of m and v, each in [0, 1). Default: (0.9, 0.999).
        eps: above 0; inside the root. It caps the stepsize 1/sqrt(...) at sqrt((1-b2)/eps), which is 316 at
            the default; for language models begin with 1e-14 (docs/guide/eps.md). Default: 1e-8.
        weight_decay: 0 or more; coupled as in Adam, g + weight_decay*p, in every sum too. Default: 0.
        decoupled_weight_decay: True: as in AdamW, p <- (1 - lr*weight_decay)*p in its place. Default: False.
        rectify: RAdam's factor on the step (arXiv 1908.03265); the stepsize is 1 while the variance is
            intractable. Default: False.
        state_dtype: "float32", "bfloat16", "int8" (or torch's type), or None for the parameter's type,
            float32 at least. "bfloat16" halves the state, "int8" makes it a quarter: codes of 8 bits and a
            float32 scale for each 256 elements, which are 2.03 bytes a parameter; not for sharded parameters
            and slices. Both are stochastically rounded, without bias. A pooled v and the moments of complex
            parameters keep their type. Default: None.
        stochastic_rounding: the same rounding for bfloat16 parameters, so that small updates are not lost.
            Default: False.
        seed: of that rounding, an integer from 0 to 2^32 - 1. Default: 0.
        maximize: step along the gradient, not against it. Default: False.
        foreach: True: tensor lists; False: tensor by tensor, slow and the reference. Default: None, the
            fastest backend that the parameters allow.
        fused: True: the C++ kernel (CPU) or the Triton kernel (CUDA, ROCm, XPU), an error where it is
            unavailable; False: neither. Default: None, as for foreach.
        capturable: counters on the device, so that CUDA graphs can capture a step. Default: False.
        differentiable: a step that autograd goes through; tensor by tensor. Default: False.
        reduce_groups: for engines that give a rank a plain piece of a layer, a function from a parameter to
            the process groups that share it, such as `fsdp_groups(model)`. DTensors need none. It is an
            attribute and not in param_groups, since a checkpoint cannot hold a function. Default: None.
        layers: what a layer is (docs/guide/layers.md). "tensor": each parameter tensor, as in the paper;
            "module": all tensors that a module has itself, such as weight and bias, which needs named
            parameters; or a function of a parameter's name (None without one) and the parameter, which
            returns None (a layer of its own), a string (that of the layer that it shares with others), or a
            list of slices, each a layer: integers, slice(start, stop) or tuples of these, as one would index
            the parameter, with each element in exactly one. It is called when parameters are added or
            replaced, and must say the same on every rank. It is an attribute as reduce_groups is; a state
            dict says what the layers were, and other ones refuse it. Default: "tensor".

    State of a parameter: `step` (0-dim), `exp_avg` m, `exp_avg_var` v (without eps; 0-dim for "pre", or one
    number for each of its slices; each tensor of a shared layer has its own copy), of 8 bits also
    `exp_avg_scale` and `exp_avg_var_scale`: m = exp_avg*scale/127, v = exp_avg_var^2*scale/65025. Both
    moments of float16 and bfloat16 parameters are float32. `p.grad` is never written.

    Raises ValueError, TypeError or RuntimeError for an argument that cannot be used, before parameters are
    looked at; TypeError, where the class is made, for a rule or an `own` that cannot be; RuntimeError, at a
    step that then changes nothing, for a sparse gradient and for what a rule returns or writes wrongly.

    Example:
        >>> import aida, torch
        >>> class Damped(aida.Layerwise):
        ...     own = dict(power=aida.Hyperparameter(1.0, ge=0, le=4))
        ...
        ...     @staticmethod
        ...     def rule(gg, mm, *, power):
        ...         return 1.0, (mm / (mm + gg + 1e-30)) ** power
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = Damped(model.parameters(), lr=1e-2, power=0.5)
        >>> model(torch.ones(4, 3)).square().mean().backward()
        >>> optimizer.step()
        >>> optimizer.param_groups[0]["power"]
        0.5
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        reduce_groups: sharding.ReduceGroups | None = None,
        layers: LayersOf = "tensor",
        **options: Unpack[Options],
    ) -> None:
        self.reduce_groups = reduce_groups
        self._layering = Layering(layers)
        self.released_by = None
        self._whole = sharding.WholeLayers()
        shared = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        known = {**self._options(), **shared}
        who = type(self).__name__
        self._check_class(reduce_groups)
        check_arguments(who, options, known)
        defaults = {**known, **options}
        check_group(defaults, self.hyperparameters)
        try:
            super().__init__(params, defaults)
        except TypeError as error:
            if not callable(params):  # a model, or its method; some models are their parameters
                raise
            what = "the model itself" if isinstance(params, torch.nn.Module) else "a function"
            raise TypeError(
                f"{who} takes parameters, not {what}, a {type(params).__name__}: give model.parameters()"
            ) from error
        self._begin_anew()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        show_arguments(cls, Layerwise, cls._options())

    def __repr__(self) -> str:
        """As torch's, with the cap of each group's stepsize."""
        return with_caps(super().__repr__(), self.param_groups, self.eps_outside)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, but values are checked first; a user's own keys are kept, other members' are not."""
        if not isinstance(param_group, dict):
            return super().add_param_group(param_group)  # which raises
        where = f"parameter group {len(self.param_groups)} of {type(self).__name__}"
        if "layers" in param_group:
            raise ValueError(
                f"{where} has `layers`, which is one argument of the whole optimizer, since a layer may have "
                "tensors of several groups: give a function of (name, parameter) that says it of each"
            )
        warn_of_keys(where, param_group, self.defaults, MEMBERS_OWN)
        if {*MEMBERS_OWN} & {*param_group} - {*self.defaults}:  # another optimizer may have this very dict
            param_group = {k: v for k, v in param_group.items() if k in self.defaults or k not in MEMBERS_OWN}
        plain = {k: v for k, v in {**self.defaults, **param_group}.items() if k != "params"}
        check_group(plain, self.hyperparameters)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.update(plain)
        try:
            check_codes_of_group(group, self.layering.slices)
            warn_where_eps_underflows(group, stacklevel=4)  # which raises where warnings are errors
        except BaseException:
            self.param_groups.pop()
            raise
        self._whole.add_group(group["params"])
        if getattr(self, "released_by", None) is not None:
            self.released_by.watch()
        return None

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
