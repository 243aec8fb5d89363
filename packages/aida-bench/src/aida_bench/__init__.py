"""Tasks, training runs and reports that judge optimizers: the command `aida`, beside the library `aida`."""

__version__ = "0.1.0"
