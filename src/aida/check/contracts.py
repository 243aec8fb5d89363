"""The contracts: each is kept by a member, or an error names the input that breaks it."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ..backends.contract import SUMS
from ..optimizers.base import Layerwise
from ..optimizers.hyperparameter import Hyperparameter
from ..optimizers.release import release_gradients
from .subject import (
    GRADIENTS,
    SHAPES,
    STEPS,
    Subject,
    backends_of,
    drawn,
    grams,
    is_same,
    parameters,
    set_gradients,
    train,
)

LIMITS = {torch.float64: 1e-6, torch.float32: 1e-3}  # of the largest update; rules may be ill-conditioned


def check_rule(subject: Subject) -> None:
    """Finite, the same when called again, and a layer by itself."""
    optimizer = subject.build(parameters(torch.float64))
    group = optimizer.param_groups[0]
    rule: Any = optimizer.rule_of(group)
    if not callable(rule):
        return

    def called(gram: Tensor) -> list[Tensor]:
        columns: dict[str, Tensor] = dict(zip(SUMS, gram.clone().unbind(1), strict=True))
        pair: Any = rule(*(columns[name] for name in optimizer.sums))
        return [torch.as_tensor(c, dtype=torch.float64).expand(len(gram)) for c in pair]

    train(optimizer, range(1))  # which refuses what is not (alpha, beta)
    for kind, gradients in GRADIENTS.items():
        for t, gram in grams(group["betas"][0], gradients):
            pair = called(gram)
            for name, coefficient in zip(("alpha", "beta"), pair, strict=True):
                for shape, c, sums in zip(SHAPES, coefficient.tolist(), gram.tolist(), strict=True):
                    if not torch.isfinite(torch.tensor(c, device="cpu")):
                        told = ", ".join(f"{k}={x:.1e}" for k, x in zip(SUMS, sums, strict=True))
                        raise subject.failed(
                            f"gives {name} = {c} for {kind}, in step {t + 1} of a layer of shape {shape} "
                            f"({told}), where a step would take 1: keep it finite, as by adding a small "
                            "number to what the rule divides by"
                        )
            if not is_same(called(gram), pair):
                raise subject.failed(
                    f"gives other coefficients when its rule is called again with the same sums ({kind}): a "
                    "rule depends on its sums and hyperparameters alone"
                )
            alone = [torch.cat(c) for c in zip(*(called(row[None]) for row in gram), strict=True)]
            if not optimizer.mixes_layers and not all(map(torch.allclose, pair, alone)):
                raise subject.failed(
                    f"gives a layer other coefficients beside other layers than alone ({kind}): let the rule "
                    "work layer by layer, or set mixes_layers = True in the class"
                )


def check_gradients(subject: Subject) -> None:
    """`p.grad` is whoever calls step()'s."""
    for choice in backends_of(torch.float32, "cpu"):
        params = parameters(torch.float32)
        optimizer = subject.build(params, **choice)
        set_gradients(params, 0)
        given = [(p.grad, p.grad.clone()) for p in params if p.grad is not None]
        optimizer.step()
        if any(
            p.grad is not g or not torch.equal(g, kept) for p, (g, kept) in zip(params, given, strict=True)
        ):
            raise subject.failed("writes to p.grad, which belongs to whoever calls step()")


def check_backends(subject: Subject) -> None:
    """Every backend beside the eager one in float64."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    devices = ["cpu", *([accelerator.type] if accelerator else [])]
    for dtype, limit in LIMITS.items():
        for device in devices:
            for choice in backends_of(dtype, device):
                for kind in ("ordinary gradients", "a gradient of zero in one layer of several"):
                    _compare(subject, dtype, limit, device, choice, kind)


def _compare(
    subject: Subject, dtype: torch.dtype, limit: float, device: str, choice: dict[str, bool], kind: str
) -> None:
    """Every step against one of the eager backend in float64 that starts from the same state."""
    params = parameters(dtype, device)
    optimizer = subject.build(params, **choice)
    for t in range(STEPS):
        oracle = parameters(torch.float64)
        reference = subject.build(oracle, foreach=False)
        reference.load_state_dict(optimizer.state_dict())
        for p, q in zip(params, oracle, strict=True):
            q.data.copy_(p.data)
            for of_q in [reference.state[q]] if optimizer.state[p] else []:
                of_q.update(
                    {k: v.detach().to("cpu", torch.float64, copy=True) for k, v in optimizer.state[p].items()}
                )
        before = [q.detach().clone() for q in oracle]
        set_gradients(params, t, GRADIENTS[kind])
        for p, q in zip(params, oracle, strict=True):
            q.grad = None if p.grad is None else p.grad.to("cpu", torch.float64)
        optimizer.step()
        reference.step()
        for shape, p, q, start in zip(SHAPES, params, oracle, before, strict=True):
            off = (p.detach().to("cpu", torch.float64) - q.detach()).abs().max().item() if p.numel() else 0.0
            update = (q.detach() - start).abs().max().item() if p.numel() else 0.0
            size = q.detach().abs().max().item() if p.numel() else 0.0
            if not off <= limit * update + 4 * torch.finfo(dtype).eps * size:
                (asked,) = choice.items()
                raise subject.failed(
                    f"steps otherwise with {asked[0]}={asked[1]} in {dtype} on {device} than the eager "
                    f"backend in float64: in step {t + 1} of {kind} a layer of shape {shape} is {off:.1e} "
                    f"off, where its largest update is {update:.1e}; let the rule divide by no difference of "
                    "sums that may be near 0, and depend on nothing but its sums and hyperparameters"
                )


def check_finite(subject: Subject) -> None:
    """Parameters stay finite, in each type of parameters and moments."""
    narrow = [(torch.float32, {"state_dtype": kept}) for kept in ("bfloat16", "int8")]
    for dtype, options in [(torch.float32, {}), *narrow, (torch.bfloat16, {})]:
        for choice in backends_of(dtype, "cpu"):
            for kind, gradients in GRADIENTS.items():
                params = parameters(dtype)
                train(subject.build(params, **options, **choice), range(STEPS), gradients)
                for shape, p in zip(SHAPES, params, strict=True):
                    if not p.isfinite().all():
                        moments = f" and moments in {options['state_dtype']}" if options else ""
                        raise subject.failed(
                            f"makes a parameter of shape {shape} in {dtype}{moments} infinite or nan within "
                            f"{STEPS} steps of {kind}"
                        )


def check_repeated(subject: Subject) -> None:
    """The same bits in a second run, and in one that is gone on with."""
    first, last = range(STEPS // 2), range(STEPS // 2, STEPS)
    whole = train(subject.build(parameters(torch.float32)), range(STEPS))
    if not is_same(train(subject.build(parameters(torch.float32)), range(STEPS)), whole):
        raise subject.failed("gives other bits in a second run of the same steps: a step is deterministic")
    for how, continued in {
        "goes on from a checkpoint": _from_checkpoint,
        "goes on from a pickle": _from_pickle,
        "goes on from a deep copy": lambda subject, optimizer: copy.deepcopy(optimizer),
    }.items():
        optimizer = subject.build(parameters(torch.float32))
        train(optimizer, first)
        if not is_same(train(continued(subject, optimizer), last), whole):
            raise subject.failed(
                f"gives other bits where it {how} after step {len(first)}: what a step depends on is in "
                "param_groups and state alone"
            )


def _from_checkpoint(subject: Subject, optimizer: Layerwise) -> Layerwise:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    params = [Parameter(p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
    loaded = subject.build(params)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    return loaded


def _from_pickle(subject: Subject, optimizer: Layerwise) -> Layerwise:
    try:
        return pickle.loads(pickle.dumps(optimizer))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise subject.failed(
            f"cannot be pickled ({error}): define the class at the top of a module, with nothing in its "
            "attributes that pickle refuses"
        ) from error


def check_groups(subject: Subject) -> None:
    """Groups step as optimizers of their own, by each hyperparameter."""
    exact = dict(state_dtype=None, stochastic_rounding=False)  # which depend on places in the optimizer
    for name, known in subject.member.hyperparameters.items():
        value = subject.arguments.get(name, known.default)
        if (other := _other(name, known, value)) is None:
            continue
        params, apart = parameters(torch.float32), parameters(torch.float32)
        half = len(params) // 2
        both = [(params[:half], apart[:half], value), (params[half:], apart[half:], other)]
        plain = [{"params": ps, name: x} for ps, _, x in both]
        train(subject.build(plain, **exact), range(STEPS))
        optimizers = [subject.build([{"params": ps, name: x}], **exact) for _, ps, x in both]
        for t in range(STEPS):
            set_gradients(apart, t)
            for optimizer in optimizers:
                optimizer.step()
        if not is_same([p.detach() for p in params], [p.detach() for p in apart]):
            raise subject.failed(
                f"steps two groups with {name}={value!r} and {name}={other!r} otherwise than two optimizers "
                "with these values: let the rule read hyperparameters from its arguments alone"
            )


def _other(name: str, known: Hyperparameter, value: Any) -> Any:
    """Another value in the range; None where there is none to be found."""
    found: list[Any] = [x for x in known.choices if x != value]
    if isinstance(value, bool):
        found = [not value]
    elif isinstance(value, int):
        found = [value + 1, value - 1]
    elif isinstance(value, float):
        found = [value / 2, value + 0.5, value - 0.5, value + 1]
    for other in found:
        try:
            if known.plain(name, other) != value:
                return other
        except ValueError:
            continue
    return None


def check_released(subject: Subject) -> None:
    """Steps in backward are those of step()."""
    if subject.member.mixes_layers:
        return
    results = []
    for released in (False, True):
        model = torch.nn.Sequential(*(torch.nn.utils.skip_init(torch.nn.Linear, 3, 3) for _ in range(3)))
        for i, p in enumerate(model.parameters()):
            p.data.copy_(drawn(-1, i, tuple(p.shape)))
        optimizer = subject.build(model.parameters())
        handle = release_gradients(optimizer, model) if released else None
        for t in range(STEPS):
            optimizer.zero_grad()
            model(drawn(t, 0, (2, 3)).float()).square().sum().backward()
            if not handle:
                optimizer.step()
        results.append([p.detach() for p in model.parameters()])
    if not is_same(*results):
        raise subject.failed(
            "gives other parameters with release_gradients than with step(): a layer's step depends on "
            "the layer alone"
        )


def check_monitored(subject: Subject) -> None:
    """The monitor's residual is the rule's."""
    from ..monitor import layer_stepsizes  # which most users of an optimizer do not load

    params = parameters(torch.float64)
    optimizer = subject.build(params, weight_decay=0.0, state_dtype=None)
    train(optimizer, range(STEPS))
    group = optimizer.param_groups[0]
    rule: Any = optimizer.rule_of(group)
    filled = [i for i, shape in enumerate(SHAPES) if 0 not in shape]
    *_, (_, gram) = grams(group["betas"][0], drawn)
    gram = gram[filled]
    columns: dict[str, Tensor] = dict(zip(SUMS, gram.unbind(1), strict=True))
    pair: Any = rule(*(columns[name] for name in optimizer.sums)) if callable(rule) else rule
    alpha, beta = (torch.as_tensor(c, dtype=torch.float64) for c in tuple(pair))
    gg, gm, mm, _ = gram.unbind(1)
    wanted = ((beta * beta * mm - 2 * alpha * beta * gm + alpha * alpha * gg).clamp(min=0) / mm).sqrt()
    found = [row["residual"] for row in layer_stepsizes(optimizer)]
    for i, x, y in zip(filled, found, wanted.tolist(), strict=True):
        if x is None or abs(x - y) > 1e-6 * (1 + y):
            raise subject.failed(
                f"has a residual of {y:.6g} |m| in a layer of shape {SHAPES[i]}, and aida.monitor tells {x}"
            )


# In the order in which check_member tells of them.
CONTRACTS = (
    check_rule,
    check_gradients,
    check_backends,
    check_finite,
    check_repeated,
    check_groups,
    check_released,
    check_monitored,
)
