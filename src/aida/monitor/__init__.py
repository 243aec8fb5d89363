"""See the stepsizes: layerwise statistics of any adaptive optimizer, live."""

from .collect import layer_stepsizes, watchable
from .definitions import DEFINITIONS, Definition
from .monitor import StepsizeMonitor
from .schema import finite, histogram_edges
from .sinks import CSV, JSONL, Memory, Sink, TensorBoard, WandB, scalars

__all__ = [
    "CSV",
    "DEFINITIONS",
    "JSONL",
    "Definition",
    "Memory",
    "Sink",
    "StepsizeMonitor",
    "TensorBoard",
    "WandB",
    "finite",
    "histogram_edges",
    "layer_stepsizes",
    "scalars",
    "watchable",
]
