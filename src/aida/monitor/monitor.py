"""StepsizeMonitor: when a record is made, and that it reaches its sinks without harm to the training."""

from __future__ import annotations

import operator
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch.optim import Optimizer

from .. import sharding
from ..optimizers.release import is_released
from .collect import Pending, Select, collect
from .definitions import definition_for, unknown
from .files import RowFile
from .measures import record
from .names import unwrapped, warn_of_another_model
from .schema import Row, new_run
from .sinks import MEMORY, Memory, Sink, Sinks, as_sinks
from .steps import has_gradient, is_skipped, steps_taken

SAME = {"stepsize": ("layer", "parameter", "numel"), "spread": ("layers",)}
"""By the kind of a file's last row, what it shares with the rows of a run that goes on."""

OPEN: WeakSet[StepsizeMonitor] = WeakSet()
"""The monitors of this process that watch: what one of them writes, another does not go on with."""


class StepsizeMonitor:
    """Records layerwise stepsizes and more of any known adaptive optimizer while it trains.

    Records are made after step 1 and after every step that `every` divides, on the device, and written when
    they have reached the host, after a later step or by close(). schema.py lists what a row holds. Nothing
    here ends a training: what fails is dropped, and warned of once; a compiled step gets no more graphs.

    Arguments:
        optimizer: of this family, torch's Adam, AdamW, RAdam, Adamax, RMSprop or Adagrad, the AdaBelief of
            timm or pytorch_optimizer, or one that DEFINITIONS has; also inside accelerate's, ZeRO's and like
            wrappers.
        model: for the layers' names. Default: None, the names in param_groups, else numbers from 0.
        every: steps between two records, 1 or more. A record reads each layer once more. Default: 100.
        sinks: one or several of paths (.jsonl, .csv), objects with write(rows), and "memory", whose rows and
            frame() are the monitor's own. Default: "memory".
        select: a function of a layer's name and parameter that says whether it is measured. Default: all.
        all_ranks: with several processes, which all make the monitor, rank 0 writes; True: each its own
            layers, for pipeline stages and ZeRO. Default: False.
        to: the former name of `sinks`.
        run: the name that every row has. Default: a new one, or that of the last run in a file among the
            sinks where this training goes on from there: a later step of the same optimizer and layers, and
            no open monitor writes that run.
        name: of the optimizer in the rows, where there are several. Default: None.

    Raises TypeError for an optimizer whose stepsizes are not known, TypeError or ValueError for sinks that
    are none, ValueError for every < 1 and for an optimizer that release_gradients steps.

    Example:
        >>> import aida, torch
        >>> from aida.monitor import StepsizeMonitor
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = aida.Aida(model.parameters())
        >>> with StepsizeMonitor(optimizer, model, every=2) as monitor:
        ...     for _ in range(4):
        ...         optimizer.zero_grad()
        ...         model(torch.ones(4, 3)).square().mean().backward()
        ...         optimizer.step()
        >>> [(row["step"], row["parameter"]) for row in monitor.rows if row["kind"] == "stepsize"]
        [(1, 'weight'), (1, 'bias'), (2, 'weight'), (2, 'bias'), (4, 'weight'), (4, 'bias')]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: torch.nn.Module | None = None,
        every: int = 100,
        sinks: Sinks = MEMORY,
        select: Select | None = None,
        all_ranks: bool = False,
        *,
        to: Sinks = MEMORY,
        run: str | None = None,
        name: str | None = None,
    ) -> None:
        optimizer = unwrapped(optimizer)
        every = check(every, select)
        _check_watchable(optimizer, model)
        warn_of_another_model(optimizer, model)
        if sinks != MEMORY and to != MEMORY:
            raise TypeError("`to` is the former name of `sinks`: give one of them")
        self.optimizer, self.model, self.every, self.select = optimizer, model, every, select
        self.sinks: list[Sink] = as_sinks(sinks if to == MEMORY else to)
        self.run, self.name = run, name
        if all_ranks and run is None and sharding.active():
            self.run = _agreed(new_run(type(optimizer).__name__))
        self._writes = all_ranks or not sharding.active() or dist.get_rank() == 0
        self._before = self._step = steps_taken(optimizer) or 0
        self._is_new = True  # no step has been counted yet since the monitor was made or a state loaded
        self._has_seen = False  # any step() at all
        self._pending: deque[tuple[int, Pending]] = deque()
        self._warned: set[str] = set()
        self._warn_of_another()
        # Compiled, the record would be traced, in a graph for every layer.
        watch: Any = torch.compiler.disable(self._after_step)
        self._hooks: list[Any] = [
            optimizer.register_step_post_hook(watch),
            optimizer.register_load_state_dict_post_hook(self._count_anew),
        ]
        OPEN.add(self)

    @property
    def to(self) -> list[Sink]:
        """The sinks, by their former name."""
        return self.sinks

    def close(self, failed: bool = False) -> None:
        """Stop watching and write what is under way. Closing twice does nothing more.

        failed: whether training has ended in an error. Else a monitor that has seen no step warns.
        """
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.flush()
        OPEN.discard(self)
        if not (self._has_seen or failed):
            warnings.warn(
                "StepsizeMonitor has seen no step of its optimizer: make it of the optimizer whose step() is "
                "called, after any wrapper has replaced it",
                stacklevel=2,
            )

    def flush(self) -> None:
        """Write what is under way from a device, which this waits for."""
        self._write(all_of_them=True)

    def __enter__(self) -> StepsizeMonitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)

    @property
    def rows(self) -> list[Row]:
        """What the first Memory among the sinks has."""
        return self._memory().rows

    def frame(self, kind: str = "stepsize") -> Any:
        """Its rows of one kind, "stepsize" or "spread", as a pandas DataFrame."""
        return self._memory().frame(kind)

    def _memory(self) -> Memory:
        found = next((sink for sink in self.sinks if isinstance(sink, Memory)), None)
        if found is None:
            raise ValueError(
                'this monitor keeps no rows in memory: add Memory() to its sinks, sinks=["memory", ...]'
            )
        return found

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return  # a graph would replay the record, which nothing reads
        self._has_seen = True
        with self._harmless("", lambda: f"StepsizeMonitor dropped the record of step {self._step}"):
            self._write()
            if not self._counts():
                return
            if self._step == 1 or self._step % self.every == 0:
                self._pending.append((self._step, collect(self.optimizer, self.model, self.select)))
                self._write()

    def _counts(self) -> bool:
        """Count this step; False where none was taken: without gradients, skipped, or to make states.

        Where gradients do not tell, the layers' own counts do, as far as the host knows them. Ranks that
        share layers count alike.
        """
        told = sharding.active() or (has_gradient(self.optimizer) and not is_skipped(self.optimizer))
        taken = None if told and not self._is_new else steps_taken(self.optimizer, wait=False)
        if taken == 0 or not (told or taken is None or taken > self._step):
            return False
        self._step, self._is_new = max(self._step + 1, taken or 0), False
        return True

    def _count_anew(self, optimizer: Any) -> None:
        self._is_new = True
        with self._harmless("", lambda: "StepsizeMonitor cannot read the steps of the loaded state"):
            self._before = self._step = steps_taken(self.optimizer) or 0

    def _write(self, all_of_them: bool = False) -> None:
        """Write the records that have reached the host; never waits unless it is for all of them."""
        while self._pending and (all_of_them or self._pending[0][1].ready()):
            step, pending = self._pending.popleft()
            with self._harmless("", lambda step=step: f"StepsizeMonitor dropped the record of step {step}"):
                self._write_one(step, pending)

    def _write_one(self, step: int, pending: Pending) -> None:
        rows = pending.rows(step) if self._writes else []
        if not (pending.stepped or self._is_new or sharding.active()):
            self._step -= 1  # a device has reported that no step was taken
        for name, error in pending.failed.items():
            said = f"StepsizeMonitor dropped layer {name} from the record of step {step}"
            self._warn(f"layer {name}", said, error)
        if not rows:
            return
        if self.run is None:
            self.run = self._continued(record(rows)) or new_run(type(self.optimizer).__name__)
        about = {"run": self.run} | ({"optimizer": self.name} if self.name else {})
        for number, sink in enumerate(self.sinks):
            said = f"{type(sink).__name__} could not write the record of step {step}"
            with self._harmless(f"sink {number}", lambda said=said: said):
                sink.write(record(rows, **about))

    @property
    def _files(self) -> list[RowFile]:
        return [sink for sink in self.sinks if isinstance(sink, RowFile)]

    def _warn_of_another(self) -> None:
        """A cell of a notebook that is run again leaves the monitor of before watching."""
        others = [other for other in OPEN if other.optimizer is self.optimizer]
        taken = {file.path for other in others for file in other._files}
        if path := next((file.path for file in self._files if file.path in taken), None):
            warnings.warn(
                f"another open StepsizeMonitor of this {type(self.optimizer).__name__} writes to {path} too, "
                "so that steps are recorded twice: close() it first",
                stacklevel=3,
            )

    def _continued(self, rows: list[Row]) -> str | None:
        """The run in a file that this training goes on from: its last record is of the steps before."""
        files = self._files if self._before else []
        with self._harmless("", lambda: "StepsizeMonitor begins a new run"):
            last: Row = next((row for sink in files if (row := sink.last(self.name))), {})
            run = str(last.get("run"))
            taken = {other.run for other in OPEN if other is not self}
            if run.startswith(f"{type(self.optimizer).__name__}-") and run not in taken:
                own = next(row for row in reversed(rows) if row["kind"] == last["kind"])
                same = all(str(last[key]) == str(own[key]) for key in SAME[own["kind"]])
                if same and int(last["step"]) + self.every > self._before:
                    return run
        return None

    @contextmanager
    def _harmless(self, key: str, said: Any) -> Iterator[None]:
        """What fails inside becomes a warning; said: what was dropped."""
        try:
            yield
        except Exception as error:
            self._warn(key, said(), error)

    def _warn(self, key: str, said: str, error: Exception) -> None:
        """Once for each key, and each kind of error."""
        key = f"{key} {type(error).__name__}"
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(
                f"{said} ({type(error).__name__}: {error}); training goes on, and later records are tried",
                stacklevel=2,
            )


def check(every: Any, select: Any) -> int:
    """`every` as a plain number; raises for what says neither when nor what to record."""
    try:
        steps = 0 if isinstance(every, bool) else operator.index(every)
    except TypeError:
        steps = 0
    if steps < 1:
        raise ValueError(f"every is a number of steps, 1 or more, not {every!r}")
    if select is not None and not callable(select):
        raise TypeError(f"select is a function of a layer's name and parameter, not {select!r}")
    return steps


def _check_watchable(optimizer: Any, model: Any) -> None:
    """Raise for what a monitor cannot be made of."""
    if model is not None and not isinstance(model, torch.nn.Module):
        hint = f"; give paths as sinks={str(model)!r}" if isinstance(model, str | Path) else ""
        raise TypeError(
            f"model is a torch.nn.Module, for the layers' names, not {type(model).__name__}{hint}"
        )
    if not isinstance(optimizer, Optimizer):
        hint = "; give its .optimizer" if hasattr(optimizer, "optimizer") else ""
        raise TypeError(
            f"StepsizeMonitor watches a torch.optim.Optimizer, not {type(optimizer).__name__}{hint}"
        )
    if definition_for(optimizer) is None:
        raise TypeError(unknown(optimizer))
    if is_released(optimizer):
        raise ValueError(
            "release_gradients steps this optimizer in backward, where no step() is seen: call "
            "aida.monitor.layer_stepsizes(optimizer, model) after backward instead"
        )


def _agreed(run: str) -> str:
    """Rank 0's name of the run, on every rank."""
    names = [run]
    dist.broadcast_object_list(names)
    return names[0]
