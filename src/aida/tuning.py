"""What helps to tune: eps for a wanted cap of the stepsize, and K as a schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .optimizers.hyperparameter import Hyperparameter

CAP = Hyperparameter(316.0, gt=0, reason="it is the largest stepsize")
BETA2 = Hyperparameter(0.999, ge=0, lt=1)


def eps_for_cap(cap: float, beta2: float = 0.999) -> float:
    """The eps that caps the stepsize u at `cap`: (1-beta2)/cap^2; its inverse is cap = sqrt((1-beta2)/eps).

    The largest step of an element is then lr * cap times its momentum (bias corrections aside). A cap is
    carried over from Adam, whose own is 1/eps: eps_for_cap(1 / adams_eps). AdaBelief, which adds eps outside
    the root too, has the cap cap/(1 + (1-beta2)/cap).

    Arguments:
        cap: the largest stepsize, above 0.
        beta2: the optimizer's, in [0, 1). Default: 0.999.

    Raises ValueError for a cap or a beta2 out of range.

    Example:
        >>> import aida
        >>> round(aida.eps_for_cap(316.2278), 12)
        1e-08
        >>> eps = aida.eps_for_cap(10, beta2=0.99)
        >>> round(((1 - 0.99) / eps) ** 0.5, 9)
        10.0
    """
    cap, beta2 = float(CAP.plain("cap", cap)), float(BETA2.plain("beta2", beta2))
    return (1 - beta2) / cap**2


class KScheduler(LRScheduler):
    """K, the number of projections, as a schedule; a scheduler of torch's that leaves lr alone.

    K is an integer in `param_groups`, so the optimizer's checkpoint has it; the scheduler's own state_dict
    has its count of steps and the numbers of a mapping, but no function. It may step beside schedulers of lr,
    and inside ChainedScheduler and SequentialLR, where K stays as it was until its turn has come.
    torch.compile traces a step once for each K.

    Arguments:
        optimizer: one whose groups all have K, as those of Aida and LAida.
        K: {step: K from there on}, in which steps before the first keep the K that the groups had; or a
            function of the count of scheduler steps, from 0.
        last_epoch: as in torch's schedulers. Default: -1, a new schedule.

    Raises TypeError for an optimizer without K and for a schedule that is neither, ValueError for a K or a
    step that cannot be.

    Example:
        >>> import aida, torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = aida.Aida(model.parameters(), K=1)
        >>> scheduler = aida.KScheduler(optimizer, {2: 2, 3: 4})
        >>> seen = []
        >>> for _ in range(4):
        ...     seen.append(optimizer.param_groups[0]["K"])
        ...     optimizer.step()
        ...     scheduler.step()
        >>> seen
        [1, 1, 2, 4]
    """

    def __init__(
        self, optimizer: Optimizer, K: Mapping[int, int] | Callable[[int], int], last_epoch: int = -1
    ) -> None:
        known = getattr(optimizer, "hyperparameters", {}).get("K")
        if known is None:
            raise TypeError(
                f"KScheduler needs an optimizer with K, such as Aida, not {type(optimizer).__name__}"
            )
        if not isinstance(K, Mapping) and not callable(K):
            raise TypeError(f"K is a mapping {{step: K}} or a function of the step, not {K!r}")
        self._known: Hyperparameter = known
        self.milestones = _milestones(K, known) if isinstance(K, Mapping) else None
        self._function = None if isinstance(K, Mapping) else K
        for group in optimizer.param_groups:
            group.setdefault("initial_K", group["K"])  # as torch keeps initial_lr
        super().__init__(optimizer, last_epoch)

    @property
    def last_epoch(self) -> int:  # type: ignore[override]
        """The count of scheduler steps; in the instance's dict, of which torch makes the state_dict."""
        return self.__dict__["last_epoch"]

    @last_epoch.setter
    def last_epoch(self, count: int) -> None:
        if count < 0 <= self.__dict__.get("last_epoch", -1):  # SequentialLR takes the first step back
            for group in self.optimizer.param_groups:
                group["K"] = group.get("initial_K", group["K"])
        self.__dict__["last_epoch"] = count

    def get_lr(self) -> list[Any]:
        """lr as it is. Every way in which torch advances a scheduler asks for it: here K is set."""
        if (K := self._K()) is not None:
            for group in self.optimizer.param_groups:
                group["K"] = K
        return [group["lr"] for group in self.optimizer.param_groups]

    def get_last_K(self) -> list[int]:
        """K of each group now."""
        return [group["K"] for group in self.optimizer.param_groups]

    def _K(self) -> int | None:
        if self._function is not None:
            return int(self._known.plain("K", self._function(self.last_epoch)))
        past = [step for step in self.milestones or () if step <= self.last_epoch]
        return self.milestones[max(past)] if past else None  # type: ignore[index]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: what torch.load(weights_only=True) can read."""
        return {k: x for k, x in super().state_dict().items() if k not in ("_known", "_function")}


def _milestones(K: Mapping[Any, Any], known: Hyperparameter) -> dict[int, int]:
    step = Hyperparameter(0, ge=0)
    return {int(step.plain("step of K", t)): int(known.plain(f"K at step {t}", k)) for t, k in K.items()}
