"""StepsizeMonitor: when a record is made, and that it reaches its sinks without harm to the training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch.optim import Optimizer

from .. import sharding
from ..optimizers.release import is_released
from .collect import Pending, Select, collect
from .definitions import DEFINITIONS, definition_for
from .measures import spread
from .record import Row
from .sinks import Memory, Sink


class StepsizeMonitor:
    """Records layerwise stepsizes and more (record.py lists what) of any known optimizer while it trains.

        with StepsizeMonitor(optimizer, model, every=100, to=[JSONL("stepsizes.jsonl")]) as monitor:
            ...                                            # train as ever; monitor.close() ends it as well

    Records are made after step 1 and after every step that `every` divides, on the device, and written when
    they have reached the host, by the next step or close(). model: for the layers' names. to: sinks; a Memory
    by default, whose rows and frame() are the monitor's own. select: of a layer's name and parameter, whether
    it is measured (default: all). A sink that raises is warned of once; training goes on.
    With several processes every one makes the monitor, and rank 0 writes (`all_ranks` True: each its own
    layers, for pipeline stages). Raises TypeError for an optimizer whose stepsizes are not known, ValueError
    for every < 1 and for an optimizer that release_gradients steps.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: torch.nn.Module | None = None,
        every: int = 100,
        to: Sequence[Sink] | None = None,
        select: Select | None = None,
        all_ranks: bool = False,
    ) -> None:
        check(optimizer, every)
        self.optimizer, self.model, self.every, self.select = optimizer, model, every, select
        self.to: list[Sink] = [Memory()] if to is None else list(to)
        self._writes = all_ranks or not sharding.active() or dist.get_rank() == 0
        self._step: int | None = None  # unknown before the first step that is seen
        self._pending: Pending | None = None
        self._failed: set[int] = set()
        self._hooks: list[Any] = [
            optimizer.register_step_post_hook(self._after_step),
            optimizer.register_load_state_dict_post_hook(self._count_anew),
        ]

    def close(self) -> None:
        """Stop watching and write what is under way. Closing twice does nothing more."""
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._write_pending()
        if self._step is None:
            warnings.warn(
                "StepsizeMonitor has seen no step of its optimizer: make it of the optimizer whose step() is "
                "called, after any wrapper has replaced it",
                stacklevel=2,
            )

    def __enter__(self) -> StepsizeMonitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def rows(self) -> list[Row]:
        """What the first Memory among the sinks has."""
        return self._memory().rows

    def frame(self, kind: str = "stepsize") -> Any:
        """Its rows of one kind, "stepsize" or "spread", as a pandas DataFrame."""
        return self._memory().frame(kind)

    def _memory(self) -> Memory:
        found = next((sink for sink in self.to if isinstance(sink, Memory)), None)
        if found is None:
            raise ValueError(
                "this monitor keeps no rows in memory: add Memory() to its sinks, to=[Memory(), ...]"
            )
        return found

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._pending is not None and self._pending.ready():
            self._write_pending()
        if self._step is None:
            self._step = _steps_taken(optimizer)
            if self._step is None:  # a step without gradients
                return
        else:
            self._step += 1
        if self._step == 1 or self._step % self.every == 0:
            self._write_pending()
            self._pending = collect(optimizer, self.model, self.select)
            if self._pending.ready():
                self._write_pending()

    def _count_anew(self, optimizer: Any) -> None:
        self._step = None

    def _write_pending(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None or not self._writes:
            return
        rows = pending.rows()
        if not rows:
            return
        rows.append({**spread(rows), "step": rows[0]["step"]})
        for sink in self.to:
            self._write(sink, rows)

    def _write(self, sink: Sink, rows: list[Row]) -> None:
        try:
            sink.write(rows)
        except Exception as error:
            if id(sink) not in self._failed:
                self._failed.add(id(sink))
                warnings.warn(
                    f"{type(sink).__name__} could not write the record of step {rows[0]['step']} "
                    f"({type(error).__name__}: {error}); training goes on, and later records are tried",
                    stacklevel=2,
                )


def check(optimizer: Any, every: Any) -> None:
    """Raise for what a monitor cannot be made of."""
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ValueError(f"every is a number of steps, 1 or more, not {every!r}")
    if not isinstance(optimizer, Optimizer):
        hint = "; give its .optimizer" if hasattr(optimizer, "optimizer") else ""
        raise TypeError(
            f"StepsizeMonitor watches a torch.optim.Optimizer, not {type(optimizer).__name__}{hint}"
        )
    if definition_for(optimizer) is None:
        known = ", ".join(sorted({name.rpartition(".")[2] for name in DEFINITIONS} - {"Layerwise"}))
        raise TypeError(
            f"the stepsizes of {type(optimizer).__name__} are not known, as those of this family are and of "
            f"{known}; add its definition to aida.monitor.DEFINITIONS"
        )
    if is_released(optimizer):
        raise ValueError(
            "release_gradients steps this optimizer in backward, where no step() is seen: call "
            "aida.monitor.layer_stepsizes(optimizer, model) after backward instead"
        )


def _steps_taken(optimizer: Optimizer) -> int | None:
    """The largest step count of the optimizer's layers; waits for a device that keeps it."""
    define = definition_for(optimizer)
    assert define is not None
    found = [
        int(define(optimizer, group, state).step)
        for group in optimizer.param_groups
        for p in group["params"]
        if (state := optimizer.state.get(p))
    ]
    return max(found, default=None)
