"""What a backend is given and what it must do. No backend learns an optimizer's name.

One layer, with the letters of the paper:
    g <- sign*g + weight_decay*p
    m <- b1*m + (1-b1)*g
    r <- beta*m - alpha*g
    v <- b2*v + (1-b2)*r^2                           ("pre": r^2 is the layer's mean, v one number)
    u <- 1 / (sqrt(v*inv_bias2 + eps_in_root) + eps_out)   ("post": u is the layer's mean over its v != 0)
    p <- decay_factor*p - step_size*u*m
All in float32 or float64, from the unrounded m and v; rounding.py says how bfloat16 is stored, and
blockwise.py how 8 bits are.
Large numbers: every finite g is survived, as torch's Adam survives it. g^2 may overflow the type: v is then
inf and u 0, for good. The sums never overflow (but in float64, or where the device has float32 alone): their
terms are taken in float64 wherever float32's are not finite. Where inv_bias2 is 0, so is v*inv_bias2, for
every v. Where weight_decay is 0, g does not depend on p, which may be infinite.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

Scalar = float | Tensor
Column = list[Any] | Tensor  # one number per layer: Python's, or a tensor [L] where a step must not sync
SUMS = ("gg", "gm", "mm", "dd")  # gram's columns
# alpha and beta, each a number for all layers (int, float, or an array of no dimensions) or an array [L];
# arrays are of the backend's own kind, NumPy's or torch's.
Coefficients = tuple[Any, Any]


def is_one_number(column: Column) -> bool:
    """Whether all layers have the same, as nearly always."""
    return isinstance(column, list) and column.count(column[0]) == len(column)


class Projection(NamedTuple):
    """The rule family.projection: (alpha, beta) of a layer are a function of its own gg, gm and mm."""

    K: int
    xi: float


@dataclass(slots=True)
class Layers:
    """L layers of one device and type, as plain real tensors; lists of equal length.

    p, g and m of a layer have one shape; v too, or is 0-dim ("pre"). apply() alone writes, to p, m and v.
    Any strides, no elements, 0-dim and negated views occur. Nothing else of a tensor changes, its storage
    included: after x.numpy() it could not be resized, as FSDP resizes it.
    numel: elements of each *whole* layer, of which p may be a shard; 1 where the caller has divided by them.
    m_scale, v_scale: where m (or v) is codes of 8 bits, each layer's scales, as in blockwise.py, which
    apply() writes too; else empty. Codes are contiguous, and no shards.
    """

    p: list[Tensor]
    g: list[Tensor]
    m: list[Tensor]
    v: list[Tensor]
    numel: list[int]
    m_scale: list[Tensor] = field(default_factory=list)
    v_scale: list[Tensor] = field(default_factory=list)
    # [4, L], of p, g, m and v, then of the scales that there are, where they are known
    addresses: np.ndarray | None = None
    prepared: Any = None  # a backend's own, kept while all but the gradients' addresses stays as it is

    def written(self) -> list[Tensor]:
        """What apply() writes."""
        return [*self.p, *self.m, *self.v, *self.m_scale, *self.v_scale]


@dataclass(slots=True)
class Scalars:
    """The numbers of one step: the first six are shared, the columns have one entry per layer."""

    b1: float
    b2: float
    weight_decay: float  # coupled; 0 where decay is decoupled
    decay_factor: Scalar  # 1 - lr*weight_decay where decay is decoupled, else 1
    sign: float  # -1 to maximize
    layerwise: str | None  # None, "pre" or "post"
    inv_bias2: Column
    eps_in_root: Column
    eps_out: Column
    step_size: Column
    keys: Column | None = None  # of rounding.py, integers; None where no tensor is stochastically rounded
    round_p: bool = False  # bfloat16 parameters too, not the moments alone
    sums: tuple[str, ...] = SUMS  # those of gram that the rule asks for; a backend may leave the others 0
    # As GradScaler leaves them, 0-dim and on the device; given only to a backend with SUPPORTS_GRAD_SCALE.
    grad_scale: Tensor | None = None  # divides g as it is read; the gradient itself is not written
    found_inf: Tensor | None = None  # above 0: nothing is written


class Backend(Protocol):
    """A module of three functions, called in this order in every step: gram, stepsize_sum, apply.

    L is len(layers.p). Sums are accumulated in float64 where the device has it, else in float32, and given as
    NumPy arrays or as tensors on the layers' device: between two calls the caller reduces them in place over
    the ranks that share layers, and makes coefficients of the same kind of them. apply alone writes to p, m
    and v; nobody writes to g, and nobody but the caller to step counters.

    A backend may have more:
    prepare(layers): called before each step, when nothing is written yet: makes or renews layers.prepared,
    and raises RuntimeError for what the backend cannot step, with "nothing was stepped" and the fix.
    unsupported_reason(dtype, device): why parameters of a type cannot be stepped, None where they can.
    SUPPORTS_GRAD_SCALE = True: it takes s.grad_scale and s.found_inf.
    cache_block_bytes(), step(layers, rule, s): where the first is above 0, the second is called in place of
    the three functions, when apply would be. It writes what they write, one cache block of layers after the
    other. rule: (alpha, beta), or a Projection; where layers are whole, and none has several tensors.
    """

    def gram(self, layers: Layers, s: Scalars) -> Any:
        """[L, 4]: gg = <g,g>, gm = <g,m>, mm = <m,m>, dd = <m-g, m-g> over each layer; s.sums at least.

        g has its sign and coupled decay, and m <- b1*m + (1-b1)*g is the updated one. Called where the rule
        is a function of the sums, or for "pre". Writes nothing.
        """
        ...

    def stepsize_sum(self, layers: Layers, coefficients: Coefficients, s: Scalars) -> Any:
        """[L, 2], for "post" alone: the sum of u over the layer's elements with v != 0, and their number.

        u <- 1/(sqrt(v*inv_bias2 + eps_in_root) + eps_out), from the updated v, unrounded. An element with
        v = 0 has never had a residual: it does not move, and its u, the largest that eps allows, would pull
        the layer's mean to itself. Writes nothing.
        """
        ...

    def apply(self, layers: Layers, coefficients: Coefficients, total: Any, s: Scalars) -> None:
        """Write p, m and v as the six lines above say.

        coefficients: (alpha, beta). total: of whole layers, the sums of r^2 [L] for "pre", stepsize_sum's
        [L, 2] for "post", else None. Where no v of a layer is other than 0, its u is that of v = 0.
        """
        ...
