"""The one step: prepare -> gram -> coefficients -> apply, for any backend and any part of a model.

Nothing is written before `apply`: not a parameter, not a moment, not a step counter. So a step that is
refused has not begun.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import family
from ..backends import rounding
from ..backends import tensors as memory
from ..backends.contract import SUMS, Backend, Coefficients, Column, Scalars, is_one_number
from ..backends.dispatch import choose
from ..backends.upload import upload
from ..sharding import StepReductions
from .layer_batch import Cut, LayerBatch, store_new_states
from .layers import Layering
from .rule import Rule, coefficients, known_to_backends, where_finite
from .shared_layers import add_up, once, with_counts
from .state import rounds
from .undo import undone_on_error

WIDTH = len(SUMS)  # of a row of gram, without the count of elements that shared_layers.py appends


@dataclass(slots=True)
class StepBatch:
    """A batch of layers with what their step needs."""

    batch: LayerBatch
    scalars: Scalars
    rule: Rule
    ticks: list[Tensor]  # counters of whole numbers, where the step rounds by them
    needs_gram: bool

    def gram(self) -> Any:
        """Sums [L, 4] of these layers' pieces; None where the rule asks for none."""
        return self.batch.backend.gram(self.batch.layers, self.scalars) if self.needs_gram else None

    def stepsize_sum(self, coefficients: Coefficients) -> Any:
        """Sums [L, 2] of these layers' pieces, for "post"."""
        return self.batch.backend.stepsize_sum(self.batch.layers, coefficients, self.scalars)

    def apply(self, coefficients: Coefficients, total: Any) -> None:
        """Write parameters and moments, and count the step."""
        self.batch.backend.apply(self.batch.layers, coefficients, total, self.scalars)
        _advance(self)

    @property
    def is_one_call(self) -> bool:
        """Whether the backend takes sums, evaluates the rule and writes in one call, if layers are whole."""
        block_bytes = getattr(self.batch.backend, "cache_block_bytes", None)
        if block_bytes is None or not (self.needs_gram or self.scalars.layerwise == "post"):
            return False
        return known_to_backends(self.rule) is not None and block_bytes() > 0

    def one_call(self) -> None:
        """As contract.Backend.step."""
        backend: Any = self.batch.backend
        backend.step(self.batch.layers, known_to_backends(self.rule), self.scalars)
        _advance(self)


def needs_gram(rule: Rule, group: Mapping[str, Any]) -> bool:
    """Whether a step of the group takes sums of its layers' gradients and momenta."""
    return callable(rule) or group.get("layerwise") == "pre"


def sums_taken(rules: Sequence[Rule], groups: Sequence[Mapping[str, Any]], shares: bool) -> list[set[str]]:
    """Which sums a step takes of each group's layers; none where the group needs none.

    shares: whether layers have tensors of several groups, so that what one group needs all of them take.
    """
    taken: list[set[str]] = []
    for rule, group in zip(rules, groups, strict=True):
        constant, of_rule = (None, rule.sums) if callable(rule) else (rule, ())
        pooled = group.get("layerwise") == "pre"
        taken.append({*family.sums_needed(constant, of_rule, pooled)} if needs_gram(rule, group) else set())
    every = {name for of_group in taken for name in of_group}
    return [every] * len(taken) if shares else taken


def prepare_step(
    batches: list[LayerBatch],
    group: dict[str, Any],
    *,
    rule: Rule,
    sums: Collection[str],
    eps_outside: bool,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> list[StepBatch]:
    """All that the batches of a group need for their step, which is not begun.

    sums: those of gram that the step takes; none: it takes none. grad_scale, found_inf: as GradScaler leaves
    them.
    """
    prepared = []
    for batch in batches:
        layers, backend = batch.layers, batch.backend
        scaled = grad_scale is not None or found_inf is not None
        by_host = scaled and layers.p[0].device.type == "cpu" and not supports_grad_scale(backend)
        if scaled and not by_host:
            check_supports_grad_scale(backend)
        if by_host and found_inf is not None and float(found_inf) > 0:
            continue
        if prepare := getattr(backend, "prepare", None):
            prepare(layers)
        counts = _next_counts(batch, group, None if by_host else found_inf)
        ticks = _ticks(batch, counts) if rounds(group) else []
        s = scalars(counts, ticks, batch, group, eps_outside=eps_outside)
        s.sums = tuple(name for name in SUMS if name in sums)
        if not by_host:
            s.grad_scale, s.found_inf = grad_scale, found_inf
        elif grad_scale is not None:
            s.sign /= float(grad_scale)
        prepared.append(StepBatch(batch, s, rule, ticks, bool(sums)))
    return prepared


def run(
    steps: Sequence[StepBatch],
    state: Any,
    reductions: StepReductions | None = None,
    shared: Layering | None = None,
) -> None:
    """Step the batches, wave by wave; all sums of a wave are taken before anything of it is written.

    state: the optimizer's, which takes up new layers' states. reductions: turn sums over shards into sums
    over whole tensors. shared: says which layers have several tensors; None where none has.
    """
    first = max([0, reductions.first_wave if reductions else 0, *[step.batch.wave for step in steps]])
    early = [step for step in steps if step.batch.wave > 0] if first else []
    ticks = [tick for step in early for tick in step.ticks]
    with undone_on_error([step.batch for step in early], ticks, state) if early else nullcontext():
        for wave in range(first, -1, -1):
            of_wave = [step for step in steps if step.batch.wave == wave]
            if wave < first:
                for step in of_wave:
                    step.batch.layers.prepared = None  # may hold copies of what the last wave wrote
            _run_wave(wave, of_wave, state, reductions, shared)


def _run_wave(
    wave: int,
    steps: Sequence[StepBatch],
    state: Any,
    reductions: StepReductions | None,
    shared: Layering | None,
) -> None:
    every, one_call = steps, []
    if not (reductions or shared):
        one_call = [step for step in every if step.is_one_call]
        steps = [step for step in every if not step.is_one_call]
    grams = [step.gram() for step in steps]
    if shared:
        pairs = zip(grams, steps, strict=True)
        grams = [gram if gram is None else with_counts(gram, step.batch.layers.p) for gram, step in pairs]
    if reductions or shared:
        # A list: torch.compile of torch 2.6 cannot keep a strict zip.
        _complete("gram", wave, [*zip(steps, grams, strict=True)], reductions, shared)
    rules = [_rule(step, gram) for step, gram in zip(steps, grams, strict=True)]
    post = [i for i, step in enumerate(steps) if step.scalars.layerwise == "post"]
    for i in post:
        pair, _ = rules[i]
        rules[i] = pair, steps[i].stepsize_sum(pair)
    if reductions or shared:
        _complete("stepsizes", wave, [(steps[i], rules[i][1]) for i in post], reductions, shared)
    store_new_states((step.batch for step in every), state)
    for step, (pair, total) in zip(steps, rules, strict=True):
        step.apply(pair, total)
    for step in one_call:
        step.one_call()


def _complete(
    kind: str,
    wave: int,
    tables: Iterable[tuple[StepBatch, Any]],
    reductions: StepReductions | None,
    shared: Layering | None,
) -> None:
    """Make rows of what is here rows of whole layers, in place: over ranks, then over a layer's tensors."""
    sums = [(step.batch.rows, step.batch.keys, table) for step, table in tables if table is not None]
    elsewhere: dict[Any, Tensor] = {}
    if reductions:
        elsewhere = getattr(reductions, kind)(wave, [(rows, table) for rows, _, table in sums])
    if shared:
        add_up([(keys, table) for _, keys, table in sums if keys], elsewhere, shared)


def _rule(step: StepBatch, gram: Any) -> tuple[Coefficients, Any]:
    """(alpha, beta), and the sum of r^2 for "pre"."""
    if gram is None:
        assert not callable(step.rule)
        return step.rule, None
    keys = step.batch.keys
    sums = gram if gram.shape[1] == WIDTH else gram[:, :WIDTH]
    alpha, beta = coefficients(step.rule, sums) if keys is None else once(keys, step.rule, sums)
    if step.scalars.layerwise != "pre":
        return (alpha, beta), None
    gg, gm, _, dd = sums.T
    with np.errstate(all="ignore") if isinstance(gram, np.ndarray) else nullcontext():
        total = family.residual_square(alpha, beta, gg, gm, dd)
        total = where_finite(total, total, dd) if callable(step.rule) else total
        return (alpha, beta), total if keys is None else total / gram.T[-1].clip(1)


def _next_counts(batch: LayerBatch, group: dict[str, Any], found_inf: Tensor | None) -> list[float] | Tensor:
    """What the layers' counters will be after this step; a tensor [L] where the host must not read them."""
    steps, earlier = batch.steps, batch.earlier
    device, lr = batch.layers.p[0].device, _number(group["lr"])
    is_elsewhere = device.type != "cpu" and any(step.device.type != "cpu" for step in steps)
    if found_inf is None and not (is_elsewhere or _stays_tensor(group) or isinstance(lr, Tensor)):
        known = memory.counts(steps) if batch.has_plain_counters else [x.item() for x in steps]
        if is_one_number(known) and not any(earlier):
            return [known[0] + 1] * len(known)
        return [count + 1 + before for count, before in zip(known, earlier, strict=True)]
    if found_inf is not None or is_elsewhere or (isinstance(lr, Tensor) and lr.device.type != "cpu"):
        steps = [step.to(device, non_blocking=True) for step in steps]  # some may have been there before
    counts = torch.stack(steps).to(torch.float64)
    counts = counts + (1 if found_inf is None else found_inf.to(device, non_blocking=True) <= 0)
    return counts + upload(earlier, counts.device, torch.float64) if any(earlier) else counts


def _advance(step: StepBatch) -> None:
    """Add 1 to the layers' counters, but where the device has found an infinite gradient."""
    batch, found_inf = step.batch, step.scalars.found_inf
    states = batch.states if step.ticks else []
    ticks = [of_p.setdefault("rounding_step", tick) for of_p, tick in zip(states, step.ticks, strict=True)]
    if found_inf is not None:
        for name in ("step", "rounding_step") if ticks else ("step",):
            _advance_there(batch, name, found_inf <= 0)
        return
    if batch.has_plain_counters:
        memory.advance(batch.steps)
    else:
        torch._foreach_add_(batch.steps, 1)
    if ticks:
        torch._foreach_add_(ticks, 1)


def _advance_there(batch: LayerBatch, name: str, counts: Tensor) -> None:
    """Add `counts`, which the host must not read, to counters that are moved to their layers' device."""
    device = batch.layers.p[0].device
    for of_p in batch.states:
        of_p[name] = of_p[name].to(device, non_blocking=True)
    counters = [of_p[name] for of_p in batch.states]
    counts = counts.to(counters[0], non_blocking=True).reshape(())
    torch._foreach_add_(counters, [counts] * len(counters))


def supports_grad_scale(backend: Backend) -> bool:
    """Whether the backend divides by grad_scale and takes no step where found_inf says so."""
    return getattr(backend, "SUPPORTS_GRAD_SCALE", False)


def scales_gradients(p: Tensor, group: Mapping[str, Any]) -> bool:
    """Whether the step of a parameter divides by grad_scale itself."""
    choices = {f"use_{name}": group[name] for name in ("foreach", "fused")}
    plain = type(p) in (Tensor, torch.nn.Parameter)
    return plain and supports_grad_scale(choose([p], **choices, differentiable=group["differentiable"]))


def check_supports_grad_scale(backend: Backend) -> None:
    """Raise RuntimeError unless the backend does."""
    if not supports_grad_scale(backend):
        raise RuntimeError(
            "on this device the optimizer's grad_scale and found_inf are used by the fused step alone: "
            "leave them to torch.amp.GradScaler, which sets them where they are"
        )


def scalars(
    counts: list[float] | Tensor,
    ticks: list[Tensor],
    batch: LayerBatch,
    group: dict[str, Any],
    *,
    eps_outside: bool,
) -> Scalars:
    """The numbers of a step that takes the batch's counters to `counts`, and its ticks to one more."""
    lr, weight_decay, decoupled = _number(group["lr"]), group["weight_decay"], group["decoupled_weight_decay"]
    b1, b2 = group["betas"]
    keys = _keys(counts, ticks, batch, group) if rounds(group) else None
    return Scalars(
        b1=b1,
        b2=b2,
        weight_decay=0.0 if decoupled else weight_decay,
        decay_factor=1 - lr * weight_decay if decoupled else 1.0,
        sign=-1.0 if group["maximize"] else 1.0,
        layerwise=group.get("layerwise"),
        **_columns(counts if batch.cut is None else batch.of_layers(counts), lr, group, eps_outside),
        keys=keys if batch.cut is None or keys is None else _keys_of_slices(keys, batch, batch.cut),
        round_p=group["stochastic_rounding"],
    )


def _columns(
    counts: list[float] | Tensor, lr: float | Tensor, group: dict[str, Any], eps_outside: bool
) -> dict[str, Any]:
    """What depends on each layer's own step t, since a layer may have joined later than others."""
    names = ("inv_bias2", "eps_in_root", "eps_out", "step_size")
    b1, b2 = group["betas"]
    eps = group["eps"]

    def at(t: Any) -> tuple[Any, ...]:
        eps_out = eps if eps_outside else 0.0
        return family.step_scalars(t, lr=lr, b1=b1, b2=b2, eps=eps, eps_out=eps_out, rectify=group["rectify"])

    if isinstance(t := counts, Tensor):
        # A number is filled in, not copied from the host, which would wait for the device.
        columns = [c.expand_as(t) if isinstance(c, Tensor) else torch.full_like(t, c) for c in at(t)]
    elif is_one_number(counts):
        columns = [[c] * len(counts) for c in at(_usable(counts[0]))]
    else:
        known = {t: at(_usable(t)) for t in {*counts}}
        columns = map(list, zip(*(known[t] for t in counts), strict=True))
    return dict(zip(names, columns, strict=True))


def _usable(count: float) -> float:
    if not 1 <= count < inf:
        raise RuntimeError(
            f"a step counter is {count - 1}, which is no number of steps: nothing was stepped; load the "
            "optimizer's state again"
        )
    return count


def _ticks(batch: LayerBatch, counts: list[float] | Tensor) -> list[Tensor]:
    """The layers' counters of whole numbers; none where `counts` serve, which in float32 stop at 2^24.

    They are made where counts are a tensor, which the host cannot look at, and at the last whole count.
    """
    known = any("rounding_step" in of_p for of_p in batch.states)
    if not isinstance(counts, Tensor) and max(counts) < 2**24 and not known:
        return []
    ticks = [
        of_p["rounding_step"] if "rounding_step" in of_p else step.to(torch.int64, copy=True)
        for of_p, step in zip(batch.states, batch.steps, strict=True)
    ]
    for tick in ticks:
        if not isinstance(tick, Tensor) or tick.dtype != torch.int64 or tick.dim():
            raise RuntimeError(
                f"a rounding_step is {tick!r}, which is no 0-dim tensor of torch.int64: nothing was stepped; "
                "load the optimizer's state again"
            )
    return ticks


def _keys(
    counts: list[float] | Tensor, ticks: list[Tensor], batch: LayerBatch, group: dict[str, Any]
) -> Column:
    """Each parameter's key of this step."""
    layers = rounding.layer_key(group["seed"], np.array(batch.numbers))
    if isinstance(counts, Tensor):
        t = torch.stack([tick.to(counts.device, non_blocking=True) for tick in ticks])
        following = (layers + np.array(batch.earlier) + 1).tolist()
        return rounding.step_key(t + upload(following, t.device, torch.int64))
    if ticks:
        counts = [tick.item() + 1 + before for tick, before in zip(ticks, batch.earlier, strict=True)]
    return rounding.step_key(layers + np.array(counts, np.int64)).tolist()


def _keys_of_slices(keys: Column, batch: LayerBatch, cut: Cut) -> Column:
    keys = batch.of_layers(keys)
    if isinstance(keys, Tensor):
        return rounding.after(keys, upload(cut.first, keys.device, torch.int64))
    return [rounding.after(key, first) for key, first in zip(keys, cut.first, strict=True)]


def _stays_tensor(group: dict[str, Any]) -> bool:
    """Whether nothing of the step may be read by the host."""
    return torch.compiler.is_compiling() or group["capturable"]


def _number(lr: float | Tensor) -> float | Tensor:
    """lr as a float where reading it costs nothing and nothing is traced; else as it is."""
    if not isinstance(lr, Tensor):
        return lr
    if torch.compiler.is_compiling() or lr.requires_grad or lr.device.type != "cpu":
        return lr.squeeze()
    return lr.item()
