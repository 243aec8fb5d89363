"""What is stepped: a member with its arguments, small layers of all kinds, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ..backends.dispatch import choose
from ..optimizers.base import Layerwise

SHAPES = ((4, 3), (5,), (1,), (), (0,), (3, 0), (2, 3, 2, 2))
STEPS = 4


def drawn(t: int, i: int, shape: tuple[int, ...]) -> Tensor:
    """Normal numbers of step t and layer i."""
    generator = torch.Generator().manual_seed(1000 * t + i)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")


# By what it is called in an error: the gradient of step t for layer i, of a shape.
GRADIENTS: dict[str, Callable[[int, int, tuple[int, ...]], Tensor]] = {
    "ordinary gradients": drawn,
    "gradients of zero": lambda t, i, shape: 0 * drawn(t, i, shape),
    "a gradient of zero in one layer of several": lambda t, i, shape: (i > 0) * drawn(t, i, shape),
    "the same gradient in every step": lambda t, i, shape: drawn(0, i, shape),
    "gradients whose sign changes in every step": lambda t, i, shape: (-1) ** t * drawn(0, i, shape),
    "gradients of about 1e20": lambda t, i, shape: 1e20 * drawn(t, i, shape),
    "gradients of about 1e-30": lambda t, i, shape: 1e-30 * drawn(t, i, shape),
}


@dataclass(frozen=True)
class Subject:
    """A member with the arguments that it is checked with."""

    member: type[Layerwise]
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        """As it is called in an error."""
        given = "".join(f", {name}={value!r}" for name, value in self.arguments.items())
        return self.member.__name__ if not given else f"{self.member.__name__}(params{given})"

    def build(self, params: Any, **more: Any) -> Layerwise:
        """An optimizer of it."""
        make: Any = self.member
        return make(params, **{**self.arguments, **more})

    def failed(self, what: str) -> RuntimeError:
        """The error that tells what it does wrong."""
        return RuntimeError(f"check_member: {self.name} {what}")


def parameters(dtype: torch.dtype, device: str = "cpu") -> list[Parameter]:
    """A parameter of each shape."""
    return [Parameter(drawn(-1, i, shape).to(device, dtype)) for i, shape in enumerate(SHAPES)]


def set_gradients(params: list[Parameter], t: int, gradients: Any = drawn) -> None:
    """The gradients of step t."""
    for i, p in enumerate(params):
        p.grad = gradients(t, i, tuple(p.shape)).to(p.device, p.dtype)


def train(optimizer: Layerwise, steps: range, gradients: Any = drawn) -> list[Tensor]:
    """Step all layers; copies of the parameters, and of their states, as they are then."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for t in steps:
        set_gradients(params, t, gradients)
        optimizer.step()
    tensors = [x for p in params for x in (p, *(v for _, v in sorted(optimizer.state[p].items())))]
    return [x.detach().clone() for x in tensors]


def is_same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Bit by bit."""
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def grams(b1: float, gradients: Any) -> Iterator[tuple[int, Tensor]]:
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


def backends_of(dtype: torch.dtype, device: str) -> Iterator[dict[str, bool]]:
    """The arguments that choose each backend that steps such parameters here."""
    if device == "mps" and dtype == torch.float64:
        return
    yield from ({"foreach": False}, {"foreach": True})
    try:
        choose([*parameters(dtype, device)[:1]], use_foreach=None, use_fused=True, differentiable=False)
    except RuntimeError:  # this installation or this device has no fused backend
        return
    yield {"fused": True}
