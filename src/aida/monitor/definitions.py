"""What each optimizer's adaptive stepsize u is, read from its state: one table, one short function each.

u is what multiplies the update direction d, element by element, apart from scalars: p <- p - step_size*u*d.
lr and the first bias correction are not in it, as in the figure of arXiv 2203.13273.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import nextafter
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from .. import family
from ..optimizers.base import Layerwise
from ..optimizers.state import moments

Group = Mapping[str, Any]
State = Mapping[str, Any]
Scalar = Any
"""A float, or a 0-dim tensor where the optimizer keeps one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One layer's stepsizes after a step: u = 1/(root(v*scale + floor) + eps_out), root the square root or 1.

    The step was p <- p - step_size*u*d, d = m where there is one, else g; with `buffer` it was
    p <- p - step_size*buffer. g is p.grad, negated by `maximize`, plus weight_decay*p (coupled decay alone).
    `less`: v - less^2 stands for v. `rule`: (alpha, beta) of the residual beta*m - alpha*g, or a function of
    (gg, gm, mm), tensors with one entry for each layer of a group, that gives it. `pooled`: the layer's mean
    of u stands for each u. `cap`: the largest possible u, None where there is none. `step`: steps taken. A
    0-dim v is the whole layer's.
    """

    step: Scalar
    v: Tensor
    step_size: Scalar
    m: Tensor | None = None
    less: Tensor | None = None
    buffer: Tensor | None = None
    scale: Scalar = 1.0
    floor: Scalar = 0.0
    eps_out: Scalar = 0.0
    root: bool = True
    cap: float | None = None
    weight_decay: float = 0.0
    maximize: bool = False
    rule: Any = None
    pooled: bool = False


def _family(optimizer: Any, group: Group, state: State) -> Definition:
    (b1, b2), eps = group["betas"], group["eps"]
    eps_out = eps if optimizer.eps_outside else 0.0
    t = _count(state["step"])
    scale, floor, eps_out_now, step_size = family.step_scalars(
        t, lr=group["lr"], b1=b1, b2=b2, eps=eps, eps_out=eps_out, rectify=group["rectify"]
    )
    off = isinstance(scale, float) and scale == 0  # rectified and not yet tractable: u is 1
    outside = eps_out_now if isinstance(eps_out_now, float) else eps_out
    m, v = moments(state)
    return Definition(
        step=t,
        v=v,
        m=m,
        scale=scale,
        floor=floor,
        eps_out=eps_out_now,
        step_size=step_size,
        cap=None if off else 1 / (1 / family.stepsize_cap(eps, b2) + outside),
        weight_decay=0.0 if group["decoupled_weight_decay"] else group["weight_decay"],
        maximize=group["maximize"],
        rule=optimizer.rule_of(group),
        pooled=group.get("layerwise") == "post",
    )


def _adam(optimizer: Any, group: Group, state: State) -> Definition:
    """torch's Adam: u = 1/(sqrt(v/(1-b2^t)) + eps), v the largest so far with amsgrad."""
    (b1, b2), t = group["betas"], _count(state["step"])
    return Definition(
        step=t,
        v=state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"],
        m=state["exp_avg"],
        scale=1 / (1 - b2**t),
        eps_out=group["eps"],
        step_size=group["lr"] / (1 - b1**t),
        rule=family.GRADIENT,
        **_common(group),
    )


def _adamw(optimizer: Any, group: Group, state: State) -> Definition:
    """torch's AdamW, whose decay is always decoupled: before torch 2.7 its groups do not say so."""
    return replace(_adam(optimizer, group, state), weight_decay=0.0)


def _radam(optimizer: Any, group: Group, state: State) -> Definition:
    """torch's RAdam: u = sqrt(1-b2^t)/(sqrt(v) + eps), rectified in step_size; u = 1 while rho <= 5."""
    (b1, b2), t = group["betas"], float(state["step"])
    threshold = nextafter(5.0, 6.0)  # torch's condition is rho > 5
    rectified = _rectified(t, lr=group["lr"], b1=b1, b2=b2, eps=group["eps"], threshold=threshold)
    return Definition(
        step=t,
        v=state["exp_avg_sq"],
        m=state["exp_avg"],
        rule=family.GRADIENT,
        **(_common(group) | rectified),
    )


def _adamax(optimizer: Any, group: Group, state: State) -> Definition:
    """torch's Adamax: u = 1/exp_inf, which has eps in it."""
    t = _count(state["step"])
    step_size = group["lr"] / (1 - group["betas"][0] ** t)
    return Definition(
        step=t,
        v=state["exp_inf"],
        m=state["exp_avg"],
        root=False,
        step_size=step_size,
        rule=family.GRADIENT,
        **_common(group),
    )


def _rmsprop(optimizer: Any, group: Group, state: State) -> Definition:
    """torch's RMSprop: u = 1/(sqrt(v) + eps), v less the square of g's average if centered. It has no m."""
    return Definition(
        step=_count(state["step"]),
        v=state["square_avg"],
        less=state["grad_avg"] if group["centered"] else None,
        buffer=state["momentum_buffer"] if group["momentum"] > 0 else None,
        eps_out=group["eps"],
        step_size=group["lr"],
        **_common(group),
    )


def _adagrad(optimizer: Any, group: Group, state: State) -> Definition:
    """torch's Adagrad: u = 1/(sqrt(sum of g^2) + eps). It has no m."""
    t = _count(state["step"])
    step_size = group["lr"] / (1 + (t - 1) * group["lr_decay"])
    return Definition(step=t, v=state["sum"], eps_out=group["eps"], step_size=step_size, **_common(group))


def _pytorch_optimizer_adabelief(optimizer: Any, group: Group, state: State) -> Definition:
    """pytorch_optimizer's AdaBelief. eps is in its v; it writes weight decay and maximize into p.grad."""
    v = state["max_exp_avg_var" if group["ams_bound"] else "exp_avg_var"]
    b1 = 0.0 if group.get("adam_debias", False) else group["betas"][0]
    sgd = optimizer.degenerated_to_sgd
    return Definition(**_adabelief(group, state, v, group["step"], b1, optimizer.n_sma_threshold, sgd))


def _timm_adabelief(optimizer: Any, group: Group, state: State) -> Definition:
    """timm's AdaBelief. eps is in its v; a rectified step uses v, not the largest so far."""
    v = state["max_exp_avg_var" if group["amsgrad"] and not group["rectify"] else "exp_avg_var"]
    b1, sgd = group["betas"][0], group["degenerated_to_sgd"]
    decay = 0.0 if group["decoupled_decay"] else group["weight_decay"]
    return Definition(**_adabelief(group, state, v, state["step"], b1, 5, sgd), weight_decay=decay)


def _adabelief(
    group: Group, state: State, v: Tensor, t: float, b1: float, threshold: float, sgd: bool
) -> dict[str, Any]:
    """eps enters v at every step, which adds up to eps/(1-b2), and once more outside the root."""
    b2, lr, eps = group["betas"][1], group["lr"], group["eps"]
    inside = (eps / (1 - b2)) ** 0.5
    found = dict(step=t, v=v, m=state["exp_avg"], rule=family.BELIEF)
    if group["rectify"]:
        step = _rectified(t, lr=lr, b1=b1, b2=b2, eps=eps, threshold=threshold, inside=inside)
        return found | step | ({} if sgd or step["scale"] else {"step_size": 0.0})
    cap = 1 / (inside + eps) if eps else None
    return found | dict(scale=1 / (1 - b2**t), eps_out=eps, step_size=lr / (1 - b1**t), cap=cap)


def _rectified(
    t: float, *, lr: Scalar, b1: float, b2: float, eps: float, threshold: float, inside: float = 0.0
) -> dict[str, Any]:
    """RAdam's step (arXiv 1908.03265), eps outside the root and not divided by the bias correction.

    While rho is below the threshold u is 1. inside: what eps comes to under the root.
    """
    bias2, rho_inf = 1 - b2**t, 2 / (1 - b2) - 1
    rho, step_size = rho_inf - 2 * t * b2**t / bias2, lr / (1 - b1**t)
    if rho < threshold:
        return dict(scale=0.0, floor=1.0, step_size=step_size, cap=None)
    factor = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5
    eps_out = eps / bias2**0.5
    cap = 1 / (inside + eps_out) if eps else None
    return dict(scale=1 / bias2, eps_out=eps_out, step_size=factor * step_size, cap=cap)


def _common(group: Group) -> dict[str, Any]:
    """What all of torch's adaptive optimizers share: eps alone limits u, and decay is coupled unless told."""
    return dict(
        cap=1 / group["eps"] if group["eps"] else None,
        weight_decay=0.0 if group.get("decoupled_weight_decay") else group["weight_decay"],
        maximize=group.get("maximize", False),
    )


def _count(step: Any) -> Scalar:
    """The step counter as a float where that costs no wait for a device, else as it is."""
    return float(step) if on_host(step) else step.double()


def counter(group: Group, state: State) -> Any:
    """A layer's step counter as its optimizer keeps it; None where it keeps none that is known."""
    return state.get("step", group.get("step"))


def on_host(x: Any) -> bool:
    """Whether reading x waits for no device."""
    return not isinstance(x, Tensor) or x.device.type == "cpu"


def stepped(group: Group, state: State) -> bool:
    """Whether a layer has taken a step, as far as the host knows: tools make states before the first one."""
    count = counter(group, state)
    return bool(state) and (count is None or not on_host(count) or count > 0)


DEFINITIONS: dict[str, Callable[[Any, Group, State], Definition]] = {
    f"{Layerwise.__module__}.{Layerwise.__qualname__}": _family,
    "torch.optim.adam.Adam": _adam,
    "torch.optim.adamw.AdamW": _adamw,
    "torch.optim.radam.RAdam": _radam,
    "torch.optim.adamax.Adamax": _adamax,
    "torch.optim.rmsprop.RMSprop": _rmsprop,
    "torch.optim.adagrad.Adagrad": _adagrad,
    "pytorch_optimizer.optimizer.adabelief.AdaBelief": _pytorch_optimizer_adabelief,
    "timm.optim.adabelief.AdaBelief": _timm_adabelief,
}
"""By "module.Class" of an optimizer or of a base of its; users may add their own."""


def definition_for(optimizer: Optimizer) -> Callable[[Any, Group, State], Definition] | None:
    """The table's entry for an optimizer; None where it has no adaptive stepsize that is known."""
    names = (f"{cls.__module__}.{cls.__qualname__}" for cls in type(optimizer).__mro__)
    return next((DEFINITIONS[name] for name in names if name in DEFINITIONS), None)


def unknown(optimizer: Any) -> str:
    """What to say of an optimizer without a definition."""
    known = ", ".join(sorted({name.rpartition(".")[2] for name in DEFINITIONS} - {"Layerwise"}))
    return (
        f"the stepsizes of {type(optimizer).__name__} are not known, as those of this family are and of "
        f"{known}; add its definition to aida.monitor.DEFINITIONS"
    )
