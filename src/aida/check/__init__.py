"""check_member: whether an optimizer of one's own keeps what the family promises."""

from __future__ import annotations

from typing import Any

from ..optimizers.base import Layerwise
from .contracts import CONTRACTS
from .subject import Subject

# Arguments that the check sets.
CHOSEN = ("foreach", "fused", "capturable", "differentiable", "reduce_groups")


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
    for check in CONTRACTS:
        check(Subject(member, arguments))
    return True


def _told(member: Any) -> str:
    is_built = isinstance(member, Layerwise)
    return f"an optimizer: give its class, {type(member).__name__}" if is_built else repr(member)
