"""check_member: whether an optimizer of one's own keeps what the family promises."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .backends.contract import SUMS
from .backends.dispatch import choose
from .optimizers.base import Layerwise
from .optimizers.hyperparameter import Hyperparameter
from .optimizers.release import release_gradients

SHAPES = ((4, 3), (5,), (1,), (), (0,), (3, 0), (2, 3, 2, 2))
STEPS = 4
LIMITS = {torch.float64: 1e-6, torch.float32: 1e-3}  # of the largest update; rules may be ill-conditioned
CHOSEN = (
    "foreach",
    "fused",
    "capturable",
    "differentiable",
    "reduce_groups",
)  # arguments that the check sets


def _drawn(t: int, i: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * t + i)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")


# By what it is called in an error: the gradient of step t for layer i, of a shape.
GRADIENTS: dict[str, Callable[[int, int, tuple[int, ...]], Tensor]] = {
    "ordinary gradients": _drawn,
    "gradients of zero": lambda t, i, shape: 0 * _drawn(t, i, shape),
    "a gradient of zero in one layer of several": lambda t, i, shape: (i > 0) * _drawn(t, i, shape),
    "the same gradient in every step": lambda t, i, shape: _drawn(0, i, shape),
    "gradients whose sign changes in every step": lambda t, i, shape: (-1) ** t * _drawn(0, i, shape),
    "gradients of about 1e20": lambda t, i, shape: 1e20 * _drawn(t, i, shape),
    "gradients of about 1e-30": lambda t, i, shape: 1e-30 * _drawn(t, i, shape),
}


def check_member(member: type[Layerwise], **arguments: Any) -> bool:
    """Check that an optimizer of one's own keeps the contracts of the family.

    It is to a subclass of `Layerwise` what `torch.autograd.gradcheck` is to a function: run it in a test.
    Small layers are stepped (matrix, vector, one element, no dimensions, empty, four dimensions), in a second
    or two, on the CPU and on an accelerator where there is one. What is checked, in this order:

    1. the rule returns finite numbers for zero, equal, alternating, huge and tiny gradients, the same ones
       when it is called again, and a layer's own whatever layers are beside it (unless `mixes_layers`);
    2. `p.grad` is not written;
    3. every backend agrees with the eager one in float64: within 1e-6 of the largest update in float64,
       1e-3 in float32;
    4. parameters stay finite in float32, in bfloat16 and with moments in bfloat16;
    5. a second run gives the same bits, and so does one that goes on from a checkpoint, from a pickle, or
       from a deep copy;
    6. groups with different values of each hyperparameter in `own` step as optimizers of their own;
    7. `release_gradients` gives the same parameters (unless `mixes_layers`);
    8. `aida.monitor` reports the residual of the rule.

    Arguments:
        member: a subclass of `Layerwise` that is built as `member(params, **arguments)`.
        **arguments: of its constructor, such as `layerwise="post"` or a hyperparameter of its own. What picks
            a backend (foreach, fused, capturable, differentiable, reduce_groups) is set by the check.

    Returns True. Raises RuntimeError, one sentence that names the contract and the input that broke it;
    TypeError for what is not such a class or argument; what a constructor or a step of the member raises.
    Global random numbers are left as they are, unless the rule draws some.

    Example:
        >>> import aida
        >>> class Damped(aida.Layerwise):
        ...     own = dict(power=aida.Hyperparameter(1.0, ge=0, le=4))
        ...     rule = staticmethod(lambda gg, gm, mm, *, power: ((mm / (mm + gg + 1e-30)) ** power, 1.0))
        >>> aida.check_member(Damped)
        True
        >>> aida.check_member(aida.Aida, K=3)
        True
    """
    if not (isinstance(member, type) and issubclass(member, Layerwise)):
        raise TypeError(f"check_member takes a subclass of aida.Layerwise, not {_told(member)}")
    if given := [name for name in CHOSEN if name in arguments]:
        raise TypeError(f"check_member sets {given[0]!r} itself: leave it out")
    for check in (_rule, _gradients, _backends, _finite, _repeated, _groups, _released, _monitored):
        check(_Subject(member, arguments))
    return True


def _told(member: Any) -> str:
    is_built = isinstance(member, Layerwise)
    return f"an optimizer: give its class, {type(member).__name__}" if is_built else repr(member)


@dataclass(frozen=True)
class _Subject:
    member: type[Layerwise]
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        given = "".join(f", {name}={value!r}" for name, value in self.arguments.items())
        return self.member.__name__ if not given else f"{self.member.__name__}(params{given})"

    def build(self, params: Any, **more: Any) -> Layerwise:
        make: Any = self.member
        return make(params, **{**self.arguments, **more})

    def failed(self, what: str) -> RuntimeError:
        return RuntimeError(f"check_member: {self.name} {what}")


def _params(dtype: torch.dtype, device: str = "cpu") -> list[Parameter]:
    return [Parameter(_drawn(-1, i, shape).to(device, dtype)) for i, shape in enumerate(SHAPES)]


def _set_gradients(params: list[Parameter], t: int, gradients: Any = _drawn) -> None:
    for i, p in enumerate(params):
        p.grad = gradients(t, i, tuple(p.shape)).to(p.device, p.dtype)


def _train(optimizer: Layerwise, steps: range, gradients: Any = _drawn) -> list[Tensor]:
    """Step all layers; copies of the parameters, and of their states, as they are then."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for t in steps:
        _set_gradients(params, t, gradients)
        optimizer.step()
    tensors = [x for p in params for x in (p, *(v for _, v in sorted(optimizer.state[p].items())))]
    return [x.detach().clone() for x in tensors]


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _grams(b1: float, gradients: Any) -> Iterator[tuple[int, Tensor]]:
    """(t, the layers' sums [L, 4] in step t), without weight decay."""
    m = [torch.zeros(shape, dtype=torch.float64, device="cpu") for shape in SHAPES]
    for t in range(STEPS):
        g = [gradients(t, i, shape) for i, shape in enumerate(SHAPES)]
        m = [b1 * m_ + (1 - b1) * g_ for m_, g_ in zip(m, g, strict=True)]
        rows = [
            [(a * b).sum() for a, b in ((x, x), (x, y), (y, y), (y - x, y - x))]
            for x, y in zip(g, m, strict=True)
        ]
        yield t, torch.stack([torch.stack(row) for row in rows])


def _rule(subject: _Subject) -> None:
    optimizer = subject.build(_params(torch.float64))
    group = optimizer.param_groups[0]
    rule: Any = optimizer.rule_of(group)
    if not callable(rule):
        return

    def called(gram: Tensor) -> list[Tensor]:
        columns: dict[str, Tensor] = dict(zip(SUMS, gram.clone().unbind(1), strict=True))
        pair: Any = rule(*(columns[name] for name in optimizer.sums))
        return [torch.as_tensor(c, dtype=torch.float64).expand(len(gram)) for c in pair]

    _train(optimizer, range(1))  # which refuses what is not (alpha, beta)
    for kind, gradients in GRADIENTS.items():
        for t, gram in _grams(group["betas"][0], gradients):
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
            if not _same(called(gram), pair):
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


def _gradients(subject: _Subject) -> None:
    for choice in _choices(torch.float32, "cpu"):
        params = _params(torch.float32)
        optimizer = subject.build(params, **choice)
        _set_gradients(params, 0)
        given = [(p.grad, p.grad.clone()) for p in params if p.grad is not None]
        optimizer.step()
        if any(
            p.grad is not g or not torch.equal(g, kept) for p, (g, kept) in zip(params, given, strict=True)
        ):
            raise subject.failed("writes to p.grad, which belongs to whoever calls step()")


def _backends(subject: _Subject) -> None:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    devices = ["cpu", *([accelerator.type] if accelerator else [])]
    for dtype, limit in LIMITS.items():
        for device in devices:
            for choice in _choices(dtype, device):
                for kind in ("ordinary gradients", "a gradient of zero in one layer of several"):
                    _compare(subject, dtype, limit, device, choice, kind)


def _choices(dtype: torch.dtype, device: str) -> Iterator[dict[str, bool]]:
    if device == "mps" and dtype == torch.float64:
        return
    yield from ({"foreach": False}, {"foreach": True})
    try:
        choose([*_params(dtype, device)[:1]], use_foreach=None, use_fused=True, differentiable=False)
    except RuntimeError:  # this installation or this device has no fused backend
        return
    yield {"fused": True}


def _compare(
    subject: _Subject, dtype: torch.dtype, limit: float, device: str, choice: dict[str, bool], kind: str
) -> None:
    """Every step against one of the eager backend in float64 that starts from the same state."""
    params = _params(dtype, device)
    optimizer = subject.build(params, **choice)
    for t in range(STEPS):
        oracle = _params(torch.float64)
        reference = subject.build(oracle, foreach=False)
        reference.load_state_dict(optimizer.state_dict())
        for p, q in zip(params, oracle, strict=True):
            q.data.copy_(p.data)
            for of_q in [reference.state[q]] if optimizer.state[p] else []:
                of_q.update(
                    {k: v.detach().to("cpu", torch.float64, copy=True) for k, v in optimizer.state[p].items()}
                )
        before = [q.detach().clone() for q in oracle]
        _set_gradients(params, t, GRADIENTS[kind])
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


def _finite(subject: _Subject) -> None:
    ways = [(torch.float32, {}), (torch.float32, {"state_dtype": "bfloat16"}), (torch.bfloat16, {})]
    for dtype, options in ways:
        for choice in _choices(dtype, "cpu"):
            for kind, gradients in GRADIENTS.items():
                params = _params(dtype)
                _train(subject.build(params, **options, **choice), range(STEPS), gradients)
                for shape, p in zip(SHAPES, params, strict=True):
                    if not p.isfinite().all():
                        moments = " and moments in bfloat16" if options else ""
                        raise subject.failed(
                            f"makes a parameter of shape {shape} in {dtype}{moments} infinite or nan within "
                            f"{STEPS} steps of {kind}"
                        )


def _repeated(subject: _Subject) -> None:
    first, last = range(STEPS // 2), range(STEPS // 2, STEPS)
    whole = _train(subject.build(_params(torch.float32)), range(STEPS))
    if not _same(_train(subject.build(_params(torch.float32)), range(STEPS)), whole):
        raise subject.failed("gives other bits in a second run of the same steps: a step is deterministic")
    for how, continued in {
        "goes on from a checkpoint": _from_checkpoint,
        "goes on from a pickle": _from_pickle,
        "goes on from a deep copy": lambda subject, optimizer: copy.deepcopy(optimizer),
    }.items():
        optimizer = subject.build(_params(torch.float32))
        _train(optimizer, first)
        if not _same(_train(continued(subject, optimizer), last), whole):
            raise subject.failed(
                f"gives other bits where it {how} after step {len(first)}: what a step depends on is in "
                "param_groups and state alone"
            )


def _from_checkpoint(subject: _Subject, optimizer: Layerwise) -> Layerwise:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    params = [Parameter(p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
    loaded = subject.build(params)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    return loaded


def _from_pickle(subject: _Subject, optimizer: Layerwise) -> Layerwise:
    try:
        return pickle.loads(pickle.dumps(optimizer))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise subject.failed(
            f"cannot be pickled ({error}): define the class at the top of a module, with nothing in its "
            "attributes that pickle refuses"
        ) from error


def _groups(subject: _Subject) -> None:
    exact = dict(state_dtype=None, stochastic_rounding=False)  # which depend on places in the optimizer
    for name, known in subject.member.hyperparameters.items():
        value = subject.arguments.get(name, known.default)
        if (other := _other(name, known, value)) is None:
            continue
        params, apart = _params(torch.float32), _params(torch.float32)
        half = len(params) // 2
        both = [(params[:half], apart[:half], value), (params[half:], apart[half:], other)]
        plain = [{"params": ps, name: x} for ps, _, x in both]
        _train(subject.build(plain, **exact), range(STEPS))
        optimizers = [subject.build([{"params": ps, name: x}], **exact) for _, ps, x in both]
        for t in range(STEPS):
            _set_gradients(apart, t)
            for optimizer in optimizers:
                optimizer.step()
        if not _same([p.detach() for p in params], [p.detach() for p in apart]):
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


def _released(subject: _Subject) -> None:
    if subject.member.mixes_layers:
        return
    results = []
    for released in (False, True):
        model = torch.nn.Sequential(*(torch.nn.utils.skip_init(torch.nn.Linear, 3, 3) for _ in range(3)))
        for i, p in enumerate(model.parameters()):
            p.data.copy_(_drawn(-1, i, tuple(p.shape)))
        optimizer = subject.build(model.parameters())
        handle = release_gradients(optimizer, model) if released else None
        for t in range(STEPS):
            optimizer.zero_grad()
            model(_drawn(t, 0, (2, 3)).float()).square().sum().backward()
            if not handle:
                optimizer.step()
        results.append([p.detach() for p in model.parameters()])
    if not _same(*results):
        raise subject.failed(
            "gives other parameters with release_gradients than with step(): a layer's step depends on "
            "the layer alone"
        )


def _monitored(subject: _Subject) -> None:
    from .monitor import layer_stepsizes  # which most users of an optimizer do not load

    params = _params(torch.float64)
    optimizer = subject.build(params, weight_decay=0.0, state_dtype=None)
    _train(optimizer, range(STEPS))
    group = optimizer.param_groups[0]
    rule: Any = optimizer.rule_of(group)
    filled = [i for i, shape in enumerate(SHAPES) if 0 not in shape]
    *_, (_, gram) = _grams(group["betas"][0], _drawn)
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
