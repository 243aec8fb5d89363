"""Where rows go: each a small class with one method, write(rows), which may raise; the monitor warns then.

What a sink needs, a file, a folder or a run of Weights & Biases, it opens at its first write: so only the
rank that writes does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from io import IOBase
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from .files import CSV, JSONL, layers_of
from .schema import Row, histogram_edges

__all__ = ["CSV", "JSONL", "MEMORY", "Memory", "Sink", "Sinks", "TensorBoard", "WandB", "as_sinks", "needed",
           "scalars"]  # fmt: skip


class Sink(Protocol):
    """Anything with this method."""

    def write(self, rows: Sequence[Row]) -> None:
        """Take one record: a row for each layer and one of their spread."""
        ...


MEMORY = "memory"
DISTRIBUTION = "aida-jax" if __name__.startswith("aida_jax.") else "aida-optim"
"""What this file was installed with: it is in both."""
Sinks: TypeAlias = "Sink | str | Path | Iterable[Sink | str | Path]"


class Memory:
    """Keeps rows in a list, `rows`; frame() makes a pandas DataFrame of the layers'."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def write(self, rows: Sequence[Row]) -> None:
        """Keep the rows of one record."""
        self.rows += rows

    def frame(self, kind: str = "stepsize") -> Any:
        """The rows of one kind, "stepsize" or "spread", as a DataFrame. Needs pandas."""
        pandas = needed("pandas", f'"{DISTRIBUTION}[monitor]"', "Memory.frame")
        return pandas.DataFrame([row for row in self.rows if row["kind"] == kind])


class TensorBoard:
    """Scalars "stepsize_mean/LAYER" and so on, and histograms, to a folder or a SummaryWriter of your own.

    Raises ModuleNotFoundError, which says what to install, for a folder without tensorboard or torch.
    """

    def __init__(self, writer: str | Path | Any) -> None:
        self._folder = Path(writer).expanduser().absolute() if isinstance(writer, str | Path) else None
        self._writer: Any = None if self._folder else writer
        for module in ("torch", "tensorboard") if self._folder else ():
            needed(module, module, "TensorBoard", load=False)

    @property
    def writer(self) -> Any:
        """The SummaryWriter, made when it is first asked for."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        return self._writer

    def write(self, rows: Sequence[Row]) -> None:
        """Write one record at its step."""
        for row in rows:
            for tag, x in scalars([row]).items():
                self.writer.add_scalar(tag, x, row["step"])
        for row in layers_of(rows):
            counts, edges = row["histogram"]["counts"], histogram_edges(row["histogram"])
            if counts:
                self.writer.add_histogram_raw(
                    f"{_prefix(row)}stepsize/{row['parameter']}",
                    min=row["min"],
                    max=row["max"],
                    num=row["numel"],
                    sum=row["mean"] * row["numel"],
                    sum_squares=(row["std"] ** 2 + row["mean"] ** 2) * row["numel"],
                    bucket_limits=edges[1:],
                    bucket_counts=counts,
                    global_step=row["step"],
                )
        self.writer.flush()


class WandB:
    """Scalars and histograms to a Weights & Biases run, by default the one that wandb.init() has begun.

    They are logged against their own axis, "stepsizes/step", so that the run's own steps are not disturbed.
    Raises ModuleNotFoundError where wandb is missing. The run is looked for at the first record: a ValueError
    then, which a monitor makes a warning, says that there is none.
    """

    def __init__(self, run: Any = None) -> None:
        needed("wandb", "wandb", "WandB", load=False)
        self.run: Any = run
        self._defined = False

    def _begin(self) -> Any:
        wandb = import_module("wandb")
        if self.run is None:
            self.run = wandb.run
        if self.run is None:
            raise ValueError("there is no Weights & Biases run: call wandb.init() first, or give WandB(run)")
        if not self._defined:
            self.run.define_metric("stepsizes/step", hidden=True)
            self.run.define_metric("stepsizes/*", step_metric="stepsizes/step")
            self._defined = True
        return wandb

    def write(self, rows: Sequence[Row]) -> None:
        """Log one record at its step."""
        wandb = self._begin()
        values: dict[str, Any] = {f"stepsizes/{tag}": x for tag, x in scalars(rows).items()}
        for row in layers_of(rows):
            if row["histogram"]["counts"]:
                counts = row["histogram"]["counts"]
                histogram = wandb.Histogram(np_histogram=(counts, histogram_edges(row["histogram"])))
                values[f"stepsizes/{_prefix(row)}histogram/{row['parameter']}"] = histogram
        self.run.log({"stepsizes/step": rows[0]["step"], **values})


def as_sinks(given: Any, named: Mapping[str, Sink] | None = None) -> list[Any]:
    """The sinks that one sink, path or name, or several, stand for; raises TypeError or ValueError.

    named: sinks that have names, beside "memory".
    """
    several = isinstance(given, Iterable) and not isinstance(given, str | Path) and not _is_sink(given)
    return [_as_sink(each, named or {}) for each in (given if several else [given])]


def _as_sink(given: Any, named: Mapping[str, Sink]) -> Any:
    kinds = {".jsonl": JSONL, ".csv": CSV}
    if given == MEMORY:
        return Memory()
    if isinstance(given, str | Path):
        if str(given) in named:
            return named[str(given)]
        if (suffix := Path(given).suffix) not in kinds:
            names = " and ".join(f'"{name}"' for name in (MEMORY, *named))
            raise ValueError(
                f"{str(given)!r} is not a sink: a path must end in .jsonl or .csv, and beside paths there "
                f"are {names}, TensorBoard(folder), WandB() and objects with a method write(rows)"
            )
        return kinds[suffix](given)
    if not _is_sink(given):
        hint = f": make an object of it, {given.__name__}(...)" if isinstance(given, type) else ""
        raise TypeError(
            'sinks are paths that end in .jsonl or .csv, "memory", or objects with a method write(rows), '
            f"such as TensorBoard(folder), one or a list of them (an empty one for none), not {given!r}{hint}"
        )
    return given


def _is_sink(given: Any) -> bool:
    return callable(getattr(given, "write", None)) and not isinstance(given, type | IOBase)


def needed(module: str, install: str, what: str, load: bool = True) -> Any:
    """An optional module; raises ModuleNotFoundError that says what to install."""
    try:
        if load:
            return import_module(module)
        if find_spec(module):
            return None
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
    raise ModuleNotFoundError(f"{what} needs {module}: pip install {install}", name=module)


NOT_CURVES = {"kind", "run", "optimizer", "step", "layer", "layers", "parameter", "numel", "cap", "histogram"}


def scalars(rows: Iterable[Row]) -> dict[str, float]:
    """The numbers of a record by tag, for a sink that logs to another tool.

    "stepsize_mean/LAYER" and so on of each layer, "stepsize_spread/mean" of all; before them "OPTIMIZER/"
    where rows name one. What a layer does not have is left out.

    Arguments:
        rows: a record, as a sink's write(rows) is given it.

    Example:
        >>> import aida, torch
        >>> from aida.monitor import StepsizeMonitor, scalars
        >>> class Printed:
        ...     def write(self, rows):
        ...         print(rows[0]["step"], round(scalars(rows)["stepsize_capped/0"], 3))
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = aida.Aida([p])
        >>> with StepsizeMonitor(optimizer, sinks=Printed(), every=1):
        ...     p.grad = torch.ones(2)
        ...     optimizer.step()
        1 0.0
    """
    return {tag: x for row in rows for tag, x in _scalars(row).items()}


def _scalars(row: Row) -> dict[str, float]:
    """By tag: "stepsize_mean/LAYER" of a layer's row, "stepsize_spread/mean" of all layers'."""
    values = {key: x for key, x in row.items() if key not in NOT_CURVES and x is not None}
    if row["kind"] == "spread":
        return {f"{_prefix(row)}stepsize_spread/{key}": x for key, x in values.items()}
    return {f"{_prefix(row)}stepsize_{key}/{row['parameter']}": x for key, x in values.items()}


def _prefix(row: Row) -> str:
    return f"{row['optimizer']}/" if row.get("optimizer") else ""
