"""What people do to the memory of a live optimizer between two steps, and what the next must be."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

PLACES = ("g", "m", "v", "step", "a", "b", "p")  # p last, since another one may take its place
_NAMES = {"m": "exp_avg", "v": "exp_avg_var", "step": "step"}
_NAMES |= {"a": "exp_avg_scale", "b": "exp_avg_var_scale"}  # where moments have 8 bits


@dataclass(frozen=True)
class Place:
    """One tensor of one parameter, by its letter; `anew` puts a new object where the tensor was."""

    optimizer: torch.optim.Optimizer
    p: Tensor
    what: str
    anew: bool = False

    def get(self) -> Tensor | None:
        if self.what == "p":
            return self.p
        if self.what == "g":
            return self.p.grad
        return self.optimizer.state.get(self.p, {}).get(_NAMES[self.what])

    def put(self, x: Tensor) -> None:
        if not self.anew:
            self.get().data = x  # type: ignore[union-attr]
        elif self.what == "p":
            replace(self.optimizer, self.p, Parameter(x))
        elif self.what == "g":
            self.p.grad = x
        else:
            self.optimizer.state[self.p][_NAMES[self.what]] = x


def replace(optimizer: torch.optim.Optimizer, old: Tensor, new: Parameter, with_state: bool = True) -> None:
    """Put another parameter in the old one's place, as pruning and growing models do."""
    for group in optimizer.param_groups:
        group["params"] = [new if p is old else p for p in group["params"]]
    with suppress(RuntimeError):  # torch refuses the gradient of another shape or type
        new.grad = old.grad
    of_p = optimizer.state.pop(old, None)
    if with_state and of_p is not None:
        optimizer.state[new] = of_p


def _filled(x: Tensor) -> Tensor:
    """Memory that torch has just added holds anything."""
    flat = torch.arange(x.numel(), dtype=torch.float32, device="cpu") / 7
    return x.copy_(flat.reshape(x.shape))


def _typed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """As many of the elements as there were, of another type, in the same memory."""
    flat = x.contiguous().view(-1).view(torch.uint8)
    size = torch.empty((), dtype=dtype).element_size()
    n = min(x.numel(), flat.numel() // size)
    typed = flat[: n * size].view(dtype)
    typed.copy_(torch.arange(1, n + 1) / 8)
    return typed.view(x.shape) if n == x.numel() else typed


def _resized_storage(x: Tensor, share: float) -> Tensor:
    storage = x.untyped_storage()
    size = storage.nbytes()
    storage.resize_(int(share * size))
    torch.empty(0, dtype=torch.uint8).set_(storage)[size:] = 0
    return x


def _moved_in_storage(x: Tensor) -> Tensor:
    buffer = torch.cat([x.reshape(-1), x.reshape(-1)])
    return torch.empty(0, dtype=x.dtype).set_(buffer.untyped_storage(), x.numel(), x.shape)  # type: ignore[call-overload]


def _expanded(x: Tensor) -> Tensor:
    return x.reshape(-1)[:1].clone().expand(x.shape)


def _overlapping(x: Tensor) -> Tensor:
    if x.dim() != 2:
        return _expanded(x)
    return x.new_ones(sum(x.shape)).as_strided(x.shape, (1, 1))


Edit = Callable[[Tensor], Tensor]

EDITS: dict[str, Edit] = {
    "moved": lambda x: x.clone(),
    "moved in its storage": _moved_in_storage,
    "shorter at the same address": lambda x: x.reshape(-1)[: x.numel() // 2],
    "first row at the same address": lambda x: x[:1] if x.dim() else x,
    "other shape at the same address": lambda x: x.reshape(x.shape[::-1]),
    "flat at the same address": lambda x: x.reshape(-1),
    "bfloat16 at the same address": lambda x: _typed(x, torch.bfloat16),
    "float16 at the same address": lambda x: _typed(x, torch.float16),
    "float64 at the same address": lambda x: _typed(x, torch.float64),
    "int32 at the same address": lambda x: _typed(x, torch.int32),
    "cast to bfloat16": lambda x: x.bfloat16(),
    "cast to float16": lambda x: x.half(),
    "cast to float64": lambda x: x.double(),
    "cast to int64": lambda x: x.long(),
    "cast to complex": lambda x: x.to(torch.complex64),
    "half, then bfloat16": lambda x: x.half().bfloat16(),
    "grown": lambda x: _filled(x.new_empty((2 * x.shape[0], *x.shape[1:]) if x.dim() else (2,))),
    "resized to less": lambda x: x.resize_(max(x.numel() // 2, 1)),
    "resized to more": lambda x: _filled(x.resize_(3 * x.numel() + 1)),
    "resized to nothing": lambda x: x.resize_(0),
    "storage freed": lambda x: _resized_storage(x, 0),
    "storage halved": lambda x: _resized_storage(x, 0.5),
    "storage doubled": lambda x: _resized_storage(x, 2),
    "transposed memory": lambda x: x.t().contiguous().t() if x.dim() == 2 else x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x,
    "with gaps": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    "negated view": lambda x: torch._neg_view(x.neg()),  # type: ignore[attr-defined]
    "expanded": _expanded,
    "overlapping": _overlapping,
    "sparse": lambda x: x.to_sparse(),
    "on meta": lambda x: x.to("meta"),
}


def edit(optimizer: torch.optim.Optimizer, p: Tensor, name: str, places: str, anew: bool) -> bool:
    """Edit these places (letters of PLACES) of a parameter; whether torch let us do all of it."""
    done = True
    for what in PLACES:
        place = Place(optimizer, p, what, anew)
        if what[0] in places and isinstance(x := place.get(), Tensor):
            try:
                with torch.no_grad():
                    new = EDITS[name](x.data)
                place.put(new)
            except (RuntimeError, TypeError):  # torch itself refuses, of p.data and p.grad most of all
                done = False
    return done


def readable(x: Tensor) -> bool:
    """Whether the elements of a strided tensor have memory."""
    last = x.storage_offset() + 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    has = x.device.type != "meta" and last * x.element_size() <= x.untyped_storage().nbytes()
    return has or not x.numel()


def seen(x: Tensor) -> Any:
    """All of a tensor that an outsider can see; its values where it has memory for them."""
    facts = x.dtype, x.layout, x.device, tuple(x.shape)
    if x.layout is not torch.strided:
        return facts, x.detach().to_dense().tolist()
    facts = *facts, x.stride(), x.storage_offset(), x.untyped_storage().nbytes()
    if not readable(x):
        return facts, None
    whole = x.detach().resolve_neg().clone(memory_format=torch.contiguous_format).reshape(-1)
    return facts, whole.view(torch.uint8).numpy().tobytes()


def everything(optimizer: torch.optim.Optimizer) -> list[Any]:
    """What a refused step must leave as it was, and what two optimizers that did the same have in common."""
    found: list[Any] = [len(optimizer.state)]
    for group in optimizer.param_groups:
        found.append(sorted((k, str(v)) for k, v in group.items() if k != "params"))
        for p in group["params"]:
            found.append([seen(p), None if p.grad is None else seen(p.grad)])
            of_p = optimizer.state.get(p)
            found.append(
                of_p and {k: seen(v) if isinstance(v, Tensor) else v for k, v in sorted(of_p.items())}
            )
    return found


def outcome(optimizer: torch.optim.Optimizer) -> str:
    """Step; what it raised, having checked that it then changed nothing, or ''."""
    before = everything(optimizer)
    try:
        optimizer.step()
    except RuntimeError as error:
        raised = str(error)
    else:
        return ""
    assert "nothing was stepped" in raised, raised
    assert everything(optimizer) == before
    return raised


def step_alike(cached: Any, fresh: Any) -> str:
    """Step both, the second without its cache: the same to the bit, in what it does or what it raises."""
    fresh._layers.clear()
    raised = outcome(fresh)
    assert outcome(cached) == raised
    assert everything(cached) == everything(fresh)
    return raised
