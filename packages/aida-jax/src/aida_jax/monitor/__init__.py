"""Rows of layer_stepsizes and where they go: the files of aida.monitor that need no torch to be imported.

Nor do they to be used, but the sink TensorBoard, which writes through torch.utils.tensorboard.

`aida stepsizes` and aida.monitor.plots read what is written here as they read a torch run's.
"""

from .measures import record
from .schema import finite, histogram_edges, new_run
from .sinks import CSV, JSONL, Memory, Sink, TensorBoard, WandB

__all__ = [
    "CSV",
    "JSONL",
    "Memory",
    "Sink",
    "TensorBoard",
    "WandB",
    "finite",
    "histogram_edges",
    "new_run",
    "record",
]
